"""How RL Zoo's hyperparameter files write things down: YAML with shared values, and Python in strings.

Anchors, aliases, merge keys and ``!!float`` are read, which configs of ours may not have. Strings that Zoo gives to
``eval`` are parsed and never evaluated: literals, ``dict(...)`` and the names of classes are all that they may hold.
"""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import Any

import yaml

from toolkit.config import yaml_document
from toolkit.config.yaml_document import MAX_BITS, MAX_BYTES, MAX_DEPTH, Builder, Document, Loader, make_error
from toolkit.utils.errors import KeyPath

_FLOAT = "tag:yaml.org,2002:float"
_OCTAL = re.compile(r"[-+]?0[0-9_]+")  # to YAML 1.1, which Zoo reads, and decimal to YAML 1.2
_NODE_SIZE = 20  # characters that a value counts for, beside its own
_LONGEST_EXPRESSION = 10_000  # characters; Python's parser needs memory for each
_MODULES = {"nn": "torch.nn", "th": "torch", "torch": "torch"}  # as Zoo imports them
_CLASSES = {
    "HerReplayBuffer": "stable_baselines3:HerReplayBuffer",
    "RMSpropTFLike": "stable_baselines3.common.sb2_compat.rmsprop_tf_like:RMSpropTFLike",
}


def read(path: Path) -> Document:
    """Read a file of RL Zoo's; its places are those of the keys where they were first written.

    :raises ConfigError: if it cannot be read, or is no YAML of the kind this module describes
    """
    return yaml_document.read(path, _ZooLoader)


def literal(text: str) -> Any:
    """Return the plain data that a Python expression of Zoo's describes, classes as ``module:Name``.

    :raises ValueError: if it is no Python, or anything else than literals, ``dict(...)`` and known classes
    """
    if len(text) > _LONGEST_EXPRESSION:
        raise ValueError(f"is longer than {_LONGEST_EXPRESSION:,} characters")
    text = text.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Python finds odd in it
            tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text[:100]!r} is not a Python expression") from None
    return _plain(tree.body, text)


def _plain(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=value) if _is_plain(value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if _is_plain(value):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_plain(item, text) for item in items]
        case ast.Dict(keys=keys, values=values):
            names = [_plain(key, text) if key else None for key in keys]
            if all(isinstance(name, str) for name in names):
                return {name: _plain(value, text) for name, value in zip(names, values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=pairs) if all(pair.arg for pair in pairs):
            return {pair.arg: _plain(pair.value, text) for pair in pairs}
        case ast.Name() | ast.Attribute() if path := _class_path(node):
            return path
    code = (ast.get_source_segment(text, node) or text)[:100]
    raise ValueError(f"{code!r} is code, which is not run: literals, dict(...) and classes of torch are read")


def _is_plain(value: Any) -> bool:
    match value:
        case str():
            return yaml_document.is_text(value)
        case int():
            return value.bit_length() <= MAX_BITS
    return value is None or isinstance(value, float)


def _class_path(node: ast.expr) -> str | None:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    if not names:
        return _CLASSES.get(node.id)
    return ".".join([_MODULES[node.id], *names[:-1]]) + f":{names[-1]}" if node.id in _MODULES else None


class _ZooLoader(Loader):
    def refuse_special(self, event: yaml.Event, place: str) -> None:
        tag = getattr(event, "tag", None)
        if not tag:
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _OCTAL.fullmatch(event.value):
                raise make_error(
                    place,
                    f"{event.value[:100]!r}: Zoo takes a number that starts with 0 for octal",
                    "write it in decimal",
                )
            return
        if tag != _FLOAT or not isinstance(event, yaml.ScalarEvent):
            raise make_error(place, f"'{tag}': of YAML's tags, !!float alone is read", "write the plain value")
        if not _is_number(event.value):
            raise make_error(place, f"{event.value[:100]!r} is not a number")

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            node = self.anchors.get(event.anchor)
            if node is not None and node.end_mark is None:
                raise make_error(f"{self.label}:{event.start_mark.line + 1}", f"'{event.anchor}' holds itself")
        return super().compose_node(parent, index)

    def make_builder(self) -> Builder:
        return _ZooBuilder(self.label)


class _ZooBuilder(Builder):
    """Builds what is shared once for each place it stands in, as long as all of it comes to a page of text."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.size = 0
        self.depth = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        place = f"{self.label}:{node.start_mark.line + 1}"
        self.size += _NODE_SIZE + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self.size > MAX_BYTES:
            raise make_error(place, f"with what is shared, there is more than {MAX_BYTES >> 20} MiB up to here")
        if self.depth > MAX_DEPTH:
            raise make_error(place, f"is nested more than {MAX_DEPTH} levels deep")
        self.depth += 1
        data = super().build(node, path)
        self.depth -= 1
        return data

    def build_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        """Return a mapping's own keys, and of ``<<`` those that it lacks, in the order they would have been read."""
        own = [pair for pair in node.value if not _is_merge(pair[0])]
        data = super().build_mapping(yaml.MappingNode(node.tag, own, node.start_mark, node.end_mark), path)
        for key_node, value_node in node.value:
            if not _is_merge(key_node):
                continue
            merged = self.build(value_node, path)
            for one in merged if isinstance(merged, list) else [merged]:
                if not isinstance(one, dict):
                    place = f"{self.label}:{key_node.start_mark.line + 1}"
                    raise make_error(place, "'<<' takes a mapping, or a list of mappings")
                data = {**one, **data}
        return data


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
