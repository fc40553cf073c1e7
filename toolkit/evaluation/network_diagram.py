"""Networks as a picture: torchview follows the tensors, Graphviz lays out what they pass through."""

from __future__ import annotations

import html
import itertools
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel, BasePolicy
from torch import nn
from torchview import draw_graph
from torchview.computation_node import ModuleNode, TensorNode

from toolkit.evaluation.networks import (
    Network,
    describe_networks,
    evaluation_mode,
    format_shape,
    get_networks,
    make_example_inputs,
    make_trace_error,
)
from toolkit.utils.errors import NetworkError
from toolkit.utils.files import picture_file, picture_format

_LEARNT, _FIXED, _INPUT = '"#cfe3f7"', '"#f3f3f3"', '"#fff3c4"'
_STYLE = """\
graph [fontname="DejaVu Sans" fontsize=12 labeljust=l nodesep=0.3 ranksep=0.35 color="#bbbbbb" style=rounded]
node [fontname="DejaVu Sans" fontsize=10 shape=box style="rounded,filled" color="#777777" margin="0.15,0.06"]
edge [color="#555555" arrowsize=0.7]
"""
_LAY_OUT = """\
import sys
import pygraphviz
graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog="dot"))
"""
_FONTS = "<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>"


def draw_networks(model: BaseAlgorithm, out: Path) -> None:
    """Draw a model's networks to a file, PNG or SVG by its suffix; one that is there is replaced.

    What a policy computes after its last layers, to choose an action, is left out, as are the target networks.

    :raises ToolkitError: if ``out`` is named neither ``.png`` nor ``.svg``
    :raises NetworkError: if a network cannot be followed
    :raises RunError: if the file cannot be written
    """
    suffix = picture_format(out)
    resolution = "graph [dpi=144]\n" if suffix == "png" else ""
    networks = describe_networks(model).networks
    clusters = ["\n".join(_cluster(number, model.policy, network)) for number, network in enumerate(networks)]
    picture = _laid_out("\n".join(["digraph {", _STYLE, resolution, *clusters, "}"]), suffix)
    with picture_file(out) as temporary:
        temporary.write_bytes(picture)


def _cluster(number: int, policy: BasePolicy, described: Network) -> Iterator[str]:
    """Yield DOT for one network."""
    network = get_networks(policy)[described.name]
    try:
        edges, inputs = _trace(network, make_example_inputs(policy, network))
    except Exception as error:
        raise make_trace_error(described.name, network, error.__cause__ or error) from error
    named_inputs = dict(zip(inputs, described.inputs.items(), strict=False))  # the state of an LSTM is not described
    prefix = "" if network is policy else f"{described.name}."
    named_layers = {layer.name: layer for layer in described.layers}
    layers = {
        id(module): named_layers[f"{prefix}{path}"]
        for path, module in network.named_modules()
        if f"{prefix}{path}" in named_layers
    }
    sources = _without_noise(edges, layers)
    shown = (node for node in sources if node in named_inputs or not isinstance(node, TensorNode))
    ids = {node: f"n{number}_{index}" for index, node in enumerate(shown)}
    yield f"subgraph cluster_{number} {{ label=<<b>{html.escape(described.name)}</b>: {html.escape(described.kind)}>"
    for node, identifier in ids.items():
        if isinstance(node, ModuleNode):
            layer = layers[node.compute_unit_id]
            learnt = [f"{layer.parameters:,} parameters"] if layer.parameters else []
            label = _label(layer.name, f"{layer.kind} → {format_shape(layer.output_shape)}", *learnt)
            yield f"{identifier} [label={label} fillcolor={_LEARNT if learnt else _FIXED}]"
        elif isinstance(node, TensorNode):
            yield f"{identifier} [label={_label(*named_inputs[node])} fillcolor={_INPUT}]"
        else:
            shape = format_shape(node.output_shape[0][1:]) if node.output_shape else ""
            yield f"{identifier} [label={_label(node.name.strip('_'), f'→ {shape}')} fillcolor=white shape=ellipse]"
    yield "}"
    for node, identifier in ids.items():
        yield from (f"{ids[source]} -> {identifier}" for source in sources[node] if source in ids)


def _label(title: str, *lines: str) -> str:
    return f"<<b>{html.escape(title)}</b>{''.join(f'<br/>{html.escape(line)}' for line in lines)}>"


def _trace(network: BaseModel, inputs: list[Any]) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """Return what feeds what in a network, as pairs of torchview's nodes, and the nodes of the inputs in order."""
    with evaluation_mode(network), _traceable(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = draw_graph(network, input_data=inputs, depth=math.inf, device=network.device)
    return graph.edge_list, [*graph.root_container]


@contextmanager
def _traceable(network: nn.Module) -> Iterator[None]:
    """Put an Identity in place of each Sequential without layers, which torchview takes for no module at all."""
    empty = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Sequential) and not len(child)
    ]
    for parent, name, _ in empty:
        setattr(parent, name, nn.Identity())
    try:
        yield
    finally:
        for parent, name, child in empty:
            setattr(parent, name, child)


def _without_noise(edges: Iterable[tuple[Any, Any]], layers: Container[int]) -> dict[Any, tuple[Any, ...]]:
    """Keep inputs, layers, what is computed inside modules, and what else joins tensors on their way to a layer.

    The rest only converts and reshapes, or comes after the last layer.
    """
    sources: dict[Any, list[Any]] = {}
    targets: dict[Any, list[Any]] = {}
    for tail, target in edges:
        source = tail.main_node if isinstance(tail, TensorNode) else tail  # inputs have a stand-in in every module
        sources.setdefault(target, []).append(source)
        targets.setdefault(source, []).append(target)

    def is_part(node: Any) -> bool:
        return node.compute_unit_id in layers if isinstance(node, ModuleNode) else node.depth > 1

    @cache
    def leads_on(node: Any) -> bool:
        return any(is_part(target) or leads_on(target) for target in targets.get(node, ()))

    @cache
    def is_shown(node: Any) -> bool:
        joins = isinstance(node, TensorNode) or len(feeding(node)) > 1
        return is_part(node) or (leads_on(node) and joins)

    @cache
    def feeding(node: Any) -> tuple[Any, ...]:
        passed = ((source,) if is_shown(source) else feeding(source) for source in sources.get(node, ()))
        return tuple(dict.fromkeys(itertools.chain.from_iterable(passed)))

    return {node: feeding(node) for node in dict.fromkeys([*targets, *sources]) if is_shown(node)}


def _laid_out(source: str, suffix: str) -> bytes:
    """Have Graphviz draw DOT, in a process of its own: what it says of fonts goes to no one, and it can only fail.

    The font is the one that matplotlib brings, so that pictures are the same where no fonts are installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "fonts.conf"
        fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        settings.write_text(_FONTS.format(fonts=html.escape(str(fonts)), cache=html.escape(folder)), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-P", "-c", _LAY_OUT, suffix],
            input=source.encode(),
            capture_output=True,
            env={**os.environ, "FONTCONFIG_FILE": str(settings)},
            check=False,
        )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise NetworkError(f"the networks cannot be drawn: {said[-1]}", "pygraphviz brings Graphviz")
    return done.stdout
