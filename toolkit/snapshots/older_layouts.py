"""State dicts that older versions of SB3 wrote, in the layout of today's.

What does not have an older layout is returned as it is; :mod:`toolkit.snapshots.weights` checks it afterwards.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn, optim

_LAYER = re.compile(r"mlp_extractor\.(?P<net>shared|policy|value)_net\.(?P<index>\d{1,4})(?P<rest>\.\w+)")
_FIRST_LAYER = re.compile(r"(?<=action_net)\.0(\.\w+)$")


def upgrade_network(state: dict[Any, Any], network: nn.Module) -> dict[Any, Any]:
    """Return the state dict of a network with today's names.

    Before version 1.8 of SB3, actor and critic could share layers of ``mlp_extractor``: now each has its own copy.
    Before 1.7, a features extractor that both use was saved once: now it is saved under three names. In the first
    version of ARS, the layer of a linear policy had no number.
    """
    state = _copy_shared_layers(state)
    parameters = network.state_dict(keep_vars=True)
    names = {id(parameter): name for name, parameter in parameters.items() if name in state}
    for name, parameter in parameters.items():
        former = _FIRST_LAYER.sub(r"\1", name)
        if name not in state and id(parameter) in names:
            state[name] = state[names[id(parameter)]]
        elif name not in state and former in state and former not in parameters:
            state[name] = state.pop(former)
    return state


def _copy_shared_layers(state: dict[Any, Any]) -> dict[Any, Any]:
    matches = {key: _LAYER.fullmatch(key) if isinstance(key, str) else None for key in state}
    shared = [int(match["index"]) for match in matches.values() if match and match["net"] == "shared"]
    if not shared:
        return dict(state)
    n_shared = max(shared) + 2  # modules: each layer has an activation after it
    upgraded = {}
    for key, value in state.items():
        match = matches[key]
        if match is None:
            upgraded[key] = value
            continue
        is_shared = match["net"] == "shared"
        index = int(match["index"]) + (0 if is_shared else n_shared)
        for net in ("policy", "value") if is_shared else (match["net"],):
            upgraded[f"mlp_extractor.{net}_net.{index}{match['rest']}"] = value
    return upgraded


def upgrade_optimizer(state: dict[Any, Any], optimizer: optim.Optimizer) -> dict[Any, Any]:
    """Return the state dict of an optimizer with numbered parameters, and without DQN's target network.

    Torch before 1.6 named parameters by their addresses. Before version 2.4 of SB3 and sb3-contrib, the optimizer of
    DQN and QR-DQN had those of the target network too, after the others, and never updated them.
    """
    match state:
        case {"param_groups": [{"params": list(names)} as group], "state": dict(moments)}:
            n_parameters = sum(len(group["params"]) for group in optimizer.param_groups)
            if len(names) in (n_parameters, 2 * n_parameters) and all(type(name) is int for name in names):
                numbers = {name: number for number, name in enumerate(names[:n_parameters])}
                kept = {numbers[name]: moment for name, moment in moments.items() if name in numbers}
                return state | {"param_groups": [group | {"params": [*range(n_parameters)]}], "state": kept}
    return state
