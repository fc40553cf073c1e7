"""The replay buffer of an off-policy algorithm, as a component with parameters of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toolkit.config.registry import KINDS, find
from toolkit.config.signatures import bind_arguments, describe_supplied, is_component, read_signature
from toolkit.utils.errors import ComponentError, KeyPath, Problem

CLASS, KWARGS = "replay_buffer_class", "replay_buffer_kwargs"  # SB3's parameters
_KIND = KINDS["replay_buffers"]


def bind_replay_buffer(
    algorithm: Callable[..., Any], params: Mapping[str, Any], path: KeyPath, problems: list[Problem]
) -> Mapping[str, Any]:
    """Find the replay buffer that an algorithm's parameters name, and check its own parameters.

    ``replay_buffer_class`` is a component: a name, or a mapping with its ``params``. Beside a name,
    ``replay_buffer_kwargs`` has the parameters, as in SB3. Every problem is added to ``problems``.

    :param path: where the config has the parameters
    :return: the parameters as SB3 takes them, with the class and its keyword arguments; without both if there is a
        problem
    """
    value = params.get(CLASS)
    if CLASS not in read_signature(algorithm).parameters:
        return params
    if value is None and isinstance(kwargs := params.get(KWARGS), dict):
        names = [name for name in kwargs if name in _KIND.supplied]
        problems += [describe_supplied((*path, KWARGS, name), _KIND.supplied) for name in names]
    if not isinstance(value, str | dict):
        return params
    others = {name: other for name, other in params.items() if name not in (CLASS, KWARGS)}
    component = {"name": value} if isinstance(value, str) else value
    params_path = (*path, CLASS, "params") if "params" in component else (*path, KWARGS)
    own_params = component.get("params", params.get(KWARGS)) or {}
    if "params" in component and KWARGS in params:
        problems.append(Problem((*path, KWARGS), f"{CLASS} has params already", "give one of the two"))
    elif not is_component(component) or not isinstance(component["name"], str) or not isinstance(own_params, dict):
        problems.append(Problem((*path, CLASS), "should be a component: a name, and params as a mapping"))
    else:
        try:
            cls = find(_KIND, component["name"])
        except ComponentError as error:
            name_path = (*path, CLASS) if isinstance(value, str) else (*path, CLASS, "name")
            problems.append(Problem(name_path, error.message, error.hint))
            return others
        arguments, own_problems = bind_arguments(cls, own_params, params_path, _KIND.supplied)
        problems.extend(own_problems)
        return others | {CLASS: cls, KWARGS: arguments}
    return others
