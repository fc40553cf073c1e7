"""The weights in an SB3 zip, checked against the model they are for before they are put into it."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from toolkit.snapshots.torch_reader import DamagedError, Guarded, decode, read_member
from toolkit.utils.errors import RunError, describe

_VARIABLES = "pytorch_variables"  # tensors that belong to no module, SAC's entropy coefficient for one
_UNREAD = {"data", "_stable_baselines3_version", "system_info.txt"}
_SLACK, _SLACK_EACH = 1 << 20, 4 << 10  # bytes of a file, and of each tensor in it, beside the numbers
_NUMBERS = {"step", "mu_product", "eta", "mu"}  # what optimizers keep as one number, in a tensor (NAdam, ASGD)
_PER_PARAMETER = 4  # tensors that an optimizer keeps for each parameter, at most


class _UnfitError(Exception):
    """Weights of another model."""


def load_weights(path: Path, model: BaseAlgorithm, made_for: str) -> None:
    """Put the weights of an SB3 zip into a model; nothing else in the zip is read.

    :param path: an SB3 zip, of unknown origin; a link to one will do
    :param model: built from the config that the zip was trained with
    :param made_for: what says so, for the message
    :raises RunError: if the zip is damaged or does not fit the model; the model may then have a part of the weights
    """
    names, variables = _parts_of(model)
    try:
        given = _read(path, names, variables)
        _check_parts(given, names)
        for name, variable in variables.items():
            _check_tensor(name, given[_VARIABLES].get(name), variable)
        kept = given.pop(_VARIABLES, {})
        model.set_parameters(given, exact_match=True, device=model.device)
        for name, variable in variables.items():
            variable.data.copy_(kept[name])
    except _UnfitError as error:
        raise RunError(f"{path}: does not fit {made_for}: {error}") from None
    except DamagedError as error:
        raise RunError(f"{path}: is damaged, or no SB3 model: {error}") from None
    except Exception as error:
        raise RunError(f"{path}: is damaged, or no SB3 model: {describe(error)}") from error


def put_weights(given: Any, model: BaseAlgorithm) -> None:
    """Put state dicts, as ``get_parameters`` gives them, into a model that they fit.

    :raises ValueError: if they do not
    """
    names, _ = _parts_of(model)
    if not isinstance(given, dict) or given.keys() != names.keys():
        raise ValueError("it has no weights of such a model")
    _refuse_misfits(given, names)
    model.set_parameters(given, exact_match=True, device=model.device)


def put_state(given: Any, part: torch.nn.Module | torch.optim.Optimizer) -> None:
    """Put a state dict into a network or an optimizer that it fits.

    :raises ValueError: if it does not
    """
    name = type(part).__name__
    if not isinstance(given, dict):
        raise ValueError(f"it has no state of a {name}")
    checked = {name: given}
    _refuse_misfits(checked, {name: part})
    part.load_state_dict(checked[name])


def _refuse_misfits(given: dict[str, Any], parts: Mapping[str, Any]) -> None:
    try:
        _check_parts(given, parts)
    except _UnfitError as error:
        raise ValueError(str(error)) from error


def _parts_of(model: BaseAlgorithm) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    names, variables = model._get_torch_save_params()
    held = {name: recursive_getattr(model, name) for name in variables}
    parts = {name: recursive_getattr(model, name) for name in names}
    return parts, {name: one for name, one in held.items() if isinstance(one, torch.Tensor)}


def _check_parts(given: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Check each part's state dict, and put what fits in its place."""
    for name, part in parts.items():
        check = _checked_optimizer if isinstance(part, torch.optim.Optimizer) else _checked_module
        given[name] = check(name, given[name], part)


def _read(path: Path, parts: Mapping[str, Any], variables: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Read each part's state dict, of no more bytes than the part can have."""
    wanted = {name: _bound(part) for name, part in parts.items()}
    if variables:
        wanted[_VARIABLES] = _bound(variables)
    with path.open("rb") as file, zipfile.ZipFile(Guarded(file)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        known = {*_UNREAD, f"{_VARIABLES}.pth", *(f"{name}.pth" for name in wanted)}
        if len(members) != len(archive.infolist()):
            raise DamagedError("it has two members of one name")
        if not any(name.endswith(".pth") for name in members):
            raise DamagedError("it has no parameters")
        if missing := [name for name in wanted if f"{name}.pth" not in members]:
            raise _UnfitError(f"it has no {missing[0]}.pth")
        if strange := sorted(members.keys() - known):
            raise _UnfitError(f"it has {strange[0][:80]!r}, which this model has not")
        given = {}
        for name, (most, tensors) in wanted.items():
            try:
                given[name] = decode(read_member(archive, members[f"{name}.pth"], most), tensors)
            except DamagedError as error:
                raise DamagedError(f"{name}.pth: {error}") from None
            except Exception as error:  # zipfile, zlib and pickletools have many ways to say it
                raise DamagedError(f"{name}.pth: {type(error).__name__}: {error}") from error
            if not isinstance(given[name], dict):
                raise DamagedError(f"{name}.pth: it is no mapping")
        return given


def _bound(part: Any) -> tuple[int, int]:
    """Return how many bytes a part's file may have, and how many tensors, about."""
    if isinstance(part, torch.optim.Optimizer):
        tensors = [tensor for group in part.param_groups for tensor in group["params"]] * _PER_PARAMETER
    else:
        tensors = [*(part if isinstance(part, Mapping) else part.state_dict()).values()]
        tensors = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return 2 * size + _SLACK + _SLACK_EACH * len(tensors), len(tensors)  # twice: another dtype is told by its name


def _checked_module(name: str, given: dict[Any, Any], module: torch.nn.Module) -> OrderedDict[str, Any]:
    expected = module.state_dict()
    if missing := [key for key in expected if key not in given]:
        raise _UnfitError(f"{name} has no {missing[0]!r}")
    if strange := [key for key in given if key not in expected]:
        raise _UnfitError(f"{name} has {str(strange[0])[:80]!r}, which this model has not")
    for key, tensor in expected.items():
        _check_tensor(f"{name}: {key}", given[key], tensor)
    fitting: OrderedDict[str, Any] = OrderedDict((key, given[key]) for key in expected)
    if hasattr(expected, "_metadata"):
        fitting._metadata = expected._metadata  # type: ignore[attr-defined]
    return fitting


def _check_tensor(name: str, given: Any, expected: torch.Tensor) -> None:
    if not isinstance(given, torch.Tensor):
        raise _UnfitError(f"{name} is no tensor")
    if given.shape != expected.shape:
        raise _UnfitError(f"{name} has the shape {_shape(given)} and should have {_shape(expected)}")
    if given.dtype != expected.dtype:
        raise _UnfitError(f"{name} holds {given.dtype} and should hold {expected.dtype}")
    _check_finite(name, given)


def _check_finite(name: str, given: torch.Tensor) -> None:
    if given.is_floating_point() and not torch.isfinite(given).all():
        raise _UnfitError(f"{name} holds numbers that are not finite (NaN or infinite)")


def _checked_optimizer(name: str, given: dict[Any, Any], optimizer: torch.optim.Optimizer) -> dict[Any, Any]:
    groups, state = given.get("param_groups"), given.get("state")
    expected = optimizer.state_dict()["param_groups"]
    if given.keys() != {"param_groups", "state"} or not isinstance(groups, list) or not isinstance(state, dict):
        raise _UnfitError(f"{name} is the state of no optimizer")
    if [_params(group) for group in groups] != [_params(group) for group in expected]:
        raise _UnfitError(f"{name} is of other parameters")
    for group in groups:
        _check_settings(name, group)
    parameters = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    for index, kept in state.items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(kept, dict):
            raise _UnfitError(f"{name} keeps something of a parameter that there is not")
        for key, value in kept.items():
            place = f"{name}: {str(key)[:80]} of parameter {index}"
            if isinstance(value, torch.Tensor):
                # of the others a fused step reads as much as the parameter has, and does not ask
                if value.numel() != 1 if key in _NUMBERS else value.shape != parameters[index].shape:
                    raise _UnfitError(f"{place} has the shape {_shape(value)}, for {_shape(parameters[index])}")
                _check_finite(place, value)
            elif value is not None and type(value) not in (bool, int, float):
                raise _UnfitError(f"{place} is neither a tensor nor a number")
    return given


def _params(group: Any) -> Any:
    return group.get("params") if isinstance(group, dict) else None


def _check_settings(name: str, group: Mapping[Any, Any]) -> None:
    """Refuse a group whose learning rate and the like are no finite numbers."""
    for key, value in group.items():
        values: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
        plain = all(one is None or type(one) in (bool, int, float, str) for one in values)
        if type(key) is not str or not plain:
            raise _UnfitError(f"{name}: {str(key)[:80]} is no setting of an optimizer")
        with suppress(OverflowError):
            if all(abs(one) < float("inf") for one in values if type(one) in (int, float)):
                continue
        raise _UnfitError(f"{name}: {key[:80]} is not finite")


def _shape(tensor: torch.Tensor) -> str:
    text = str(tuple(tensor.shape))
    return text if len(text) < 80 else f"{text[:80]}..."
