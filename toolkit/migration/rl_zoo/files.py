"""Reading of RL Zoo's hyperparameter files: YAML with shared values, and Python expressions in strings.

Anchors, aliases, merge keys and ``!!float`` are allowed, unlike in our configs. Strings that Zoo gives to ``eval`` are
parsed and never evaluated. They may contain literals, ``dict(...)`` and the names of known classes.
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
_ORDERED_DICT = "tag:yaml.org,2002:python/object/apply:collections.OrderedDict"
_TUPLE = "tag:yaml.org,2002:python/tuple"
_OCTAL = re.compile(r"[-+]?0[0-9_]+")  # octal in YAML 1.1, which Zoo reads, and decimal in YAML 1.2
_NODE_SIZE = 20  # characters that a node counts for, in addition to its text
_MAX_EXPRESSION_LENGTH = 10_000  # characters; Python's parser needs memory for each
_MODULES = {"nn": "torch.nn", "th": "torch", "torch": "torch"}  # the names under which Zoo imports them
_CLASSES = {
    "HerReplayBuffer": "her",
    "RMSpropTFLike": "stable_baselines3.common.sb2_compat.rmsprop_tf_like:RMSpropTFLike",
}


def read_zoo_file(path: Path) -> Document:
    """Read a file of RL Zoo. The location of a shared value is where it was first written.

    :raises ConfigError: if the file cannot be read, or is not YAML as this module describes it
    """
    return yaml_document.read(path, _ZooLoader)


def read_agent_file(path: Path) -> Document:
    """Read a YAML file that RL Zoo wrote beside an agent. ``OrderedDict`` and tuples in it become plain data.

    PyYAML marks them with tags that name Python objects. No object is constructed, and other such tags are refused.

    :raises ConfigError: as :func:`read_zoo_file`
    """
    return yaml_document.read(path, _AgentLoader)


def parse_expression(text: str) -> Any:
    """Return the plain data that a Python expression describes, classes as ``module:Name``.

    :raises ValueError: if it is not Python, or has anything but literals, ``dict(...)`` and known classes
    """
    if len(text) > _MAX_EXPRESSION_LENGTH:
        raise ValueError(f"is longer than {_MAX_EXPRESSION_LENGTH:,} characters")
    text = text.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as those about invalid escapes
            tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text[:100]!r} is not a Python expression") from None
    return _convert_node(tree.body, text)


def _convert_node(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=value) if _is_plain_data(value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if _is_plain_data(value):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_convert_node(item, text) for item in items]
        case ast.Name() | ast.Attribute() if reference := _find_class(node):
            return reference
    pairs = _get_pairs(node, text)
    if pairs is None:
        code = (ast.get_source_segment(text, node) or text)[:100]
        raise ValueError(f"{code!r} is code, which does not run: write literals, dict(...) or classes of torch")
    return {key: _convert_node(value, text) for key, value in pairs.items()}


def _get_pairs(node: ast.expr, text: str) -> dict[str, ast.expr] | None:
    """Return the keys and values of ``{...}`` or ``dict(...)``, or ``None`` if a node is neither."""
    match node:
        case ast.Dict(keys=keys, values=values):
            names: list[Any] = [_convert_node(key, text) if key else None for key in keys]
            return dict(zip(names, values, strict=True)) if all(isinstance(name, str) for name in names) else None
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(pair.arg for pair in keywords):
            return {str(pair.arg): pair.value for pair in keywords}
    return None


def _is_plain_data(value: Any) -> bool:
    match value:
        case str():
            return yaml_document.is_text(value)
        case int():
            return value.bit_length() <= MAX_BITS
    return value is None or isinstance(value, float)


def _find_class(node: ast.expr) -> str | None:
    """Return ``module:Name`` of a known class, or ``None``."""
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
    def refuse_special(self, event: yaml.Event, location: str) -> None:
        tag = getattr(event, "tag", None)
        if not tag:
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _OCTAL.fullmatch(event.value):
                raise make_error(
                    location,
                    f"{event.value[:100]!r}: Zoo reads a number that starts with 0 as octal",
                    "write it in decimal",
                )
            return
        if tag != _FLOAT or not isinstance(event, yaml.ScalarEvent):
            raise make_error(location, f"'{tag}': !!float is the only YAML tag allowed", "write the plain value")
        if not _is_number(event.value):
            raise make_error(location, f"{event.value[:100]!r} is not a number")

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            node = self.anchors.get(event.anchor)
            if node is not None and node.end_mark is None:
                raise make_error(f"{self.label}:{event.start_mark.line + 1}", f"'{event.anchor}' contains itself")
        return super().compose_node(parent, index)

    def make_builder(self) -> Builder:
        return _ZooBuilder(self.label)


class _ZooBuilder(Builder):
    """Builds a shared value again for each use, up to a total size of 1 MiB."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.size = 0
        self.depth = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        location = f"{self.label}:{node.start_mark.line + 1}"
        self.size += _NODE_SIZE + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self.size > MAX_BYTES:
            raise make_error(
                location, f"the file exceeds {MAX_BYTES >> 20} MiB here, because shared values count for each use"
            )
        if self.depth > MAX_DEPTH:
            raise make_error(location, f"is nested more than {MAX_DEPTH} levels deep")
        self.depth += 1
        data = super().build(node, path)
        self.depth -= 1
        return data

    def build_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        """Return a mapping with the keys of ``<<`` that it lacks, in PyYAML's order."""
        own = [pair for pair in node.value if not _is_merge(pair[0])]
        data = super().build_mapping(yaml.MappingNode(node.tag, own, node.start_mark, node.end_mark), path)
        for key_node, value_node in node.value:
            if not _is_merge(key_node):
                continue
            merged = self.build(value_node, path)
            for mapping in merged if isinstance(merged, list) else [merged]:
                if not isinstance(mapping, dict):
                    location = f"{self.label}:{key_node.start_mark.line + 1}"
                    raise make_error(location, "'<<' takes a mapping, or a list of mappings")
                data = {**mapping, **data}
        return data


class _AgentLoader(_ZooLoader):
    def refuse_special(self, event: yaml.Event, location: str) -> None:
        tag = getattr(event, "tag", None)
        if tag in (_ORDERED_DICT, _TUPLE) and isinstance(event, yaml.SequenceStartEvent):
            return
        if tag and tag != _FLOAT:
            message = f"'{tag[:100]}' is not read, only collections.OrderedDict and python/tuple"
            raise make_error(location, message, "write the plain value")
        super().refuse_special(event, location)

    def make_builder(self) -> Builder:
        return _AgentBuilder(self.label)


class _AgentBuilder(_ZooBuilder):
    """Builds an ``OrderedDict``, which PyYAML writes as a list of one list of pairs, as a mapping."""

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        return super().build(self._convert_ordered_dict(node) if node.tag == _ORDERED_DICT else node, path)

    def _convert_ordered_dict(self, node: yaml.Node) -> yaml.MappingNode:
        match node.value:
            case []:
                pairs = []
            case [yaml.SequenceNode(value=items)] if all(_is_pair(item) for item in items):
                pairs = [tuple(item.value) for item in items]
            case _:
                raise make_error(f"{self.label}:{node.start_mark.line + 1}", "OrderedDict takes one list of pairs")
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, node.start_mark, node.end_mark)


def _is_pair(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and len(node.value) == 2


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
