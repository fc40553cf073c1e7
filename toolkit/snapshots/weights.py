"""The weights in an SB3 zip, checked against the model they are for before they are put into it."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from toolkit.snapshots.older_layouts import upgrade_network, upgrade_optimizer
from toolkit.snapshots.torch_reader import BoundedFile, read_member, read_torch_file
from toolkit.utils.errors import RunError, describe_error
from toolkit.utils.pickles import DamagedFileError

_VARIABLES = "pytorch_variables"  # tensors that belong to no module: SAC's entropy coefficient, for example
_FORMER_VARIABLES = "tensors.pth"  # before version 0.8 of SB3
_IGNORED_MEMBERS = {"data", "_stable_baselines3_version", "system_info.txt"}
_SLACK, _SLACK_PER_TENSOR = 1 << 20, 4 << 10  # bytes of a file beside the numbers
_SCALARS = {"step", "mu_product", "eta", "mu"}  # what optimizers store as a tensor of one number (NAdam, ASGD)
_TENSORS_PER_PARAMETER = 4  # that an optimizer stores at most


class _MisfitError(Exception):
    """Weights of another model."""


def load_weights(path: Path, model: BaseAlgorithm, config_name: str) -> None:
    """Load the weights of an SB3 zip into a model; nothing else in the zip is read.

    :param path: an SB3 zip of unknown origin, or a link to one
    :param model: built from the config that the zip was trained with
    :param config_name: what a message calls that config
    :raises RunError: if the zip is damaged or does not fit the model, which may then have a part of the weights
    """
    parts, variables = _get_parts(model)
    with _convert_errors(path, config_name):
        parameters = _read(path, parts, variables)
        _set_weights(model, parameters, parts, variables)


def load_older_weights(
    path: Path, model: BaseAlgorithm, config_name: str, *, with_optimizers: bool = True
) -> list[str]:
    """Load the weights of an SB3 zip as :func:`load_weights` does, also if an older version of SB3 wrote it.

    An optimizer keeps its initial state if the zip has none that fits.

    :param with_optimizers: whether optimizers get their state from the zip
    :return: why each such optimizer is left out
    :raises RunError: as :func:`load_weights`
    """
    parts, variables = _get_parts(model)
    optimizers = {name: part for name, part in parts.items() if isinstance(part, torch.optim.Optimizer)}
    reasons = []
    with _convert_errors(path, config_name):
        parameters = _read(path, parts, variables, optional=optimizers)
        for name, part in parts.items():
            if name not in optimizers:
                parameters[name] = upgrade_network(parameters[name], part)
        for name, optimizer in optimizers.items():
            if not with_optimizers:
                parameters[name] = optimizer.state_dict()
                continue
            try:
                if name not in parameters:
                    raise _MisfitError(f"it has no {name}.pth")
                parameters[name] = upgrade_optimizer(parameters[name], optimizer)
                _check_optimizer(name, parameters[name], optimizer)
            except _MisfitError as error:
                reasons.append(str(error))
                parameters[name] = optimizer.state_dict()
        _set_weights(model, parameters, parts, variables)
    return reasons


@contextmanager
def _convert_errors(path: Path, config_name: str) -> Iterator[None]:
    try:
        yield
    except _MisfitError as error:
        raise RunError(f"{path}: does not fit {config_name}: {error}") from None
    except DamagedFileError as error:
        raise RunError(f"{path}: is damaged, or no SB3 model: {error}") from None
    except Exception as error:
        raise RunError(f"{path}: is damaged, or no SB3 model: {describe_error(error)}") from error


def _set_weights(
    model: BaseAlgorithm,
    parameters: dict[str, Any],
    parts: Mapping[str, Any],
    variables: Mapping[str, torch.Tensor],
) -> None:
    _check_parts(parameters, parts)
    saved_variables = parameters.pop(_VARIABLES, {})
    for name, variable in variables.items():
        _check_tensor(name, saved_variables.get(name), variable)
    model.set_parameters(parameters, exact_match=True, device=model.device)
    for name, variable in variables.items():
        variable.data.copy_(saved_variables[name])


def find_unreadable_weights(model: BaseAlgorithm) -> str:
    """Return why a model of the same config cannot get a model's weights from its zip; empty if it can."""
    if not isinstance(model.policy, torch.nn.Module):
        return f"its policy {type(model.policy).__name__} is no torch module"
    parts, variables = _get_parts(model)
    networks = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            if not isinstance(value, torch.Tensor):
                return f"{name}: {key} is no tensor"
    saved = {id(parameter) for network in networks.values() for parameter in network.parameters()}
    saved |= set(map(id, variables.values()))
    if not saved:
        return "it saves no torch parameters"
    unsaved = [name for name, parameter in model.policy.named_parameters() if id(parameter) not in saved]
    return f"its _get_torch_save_params does not name the policy's {unsaved[0]}" if unsaved else ""


def load_parameters(parameters: Any, model: BaseAlgorithm) -> None:
    """Load the state dicts that ``get_parameters`` returned into a model that they fit.

    :raises ValueError: if they do not fit
    """
    parts, _ = _get_parts(model)
    if not isinstance(parameters, dict) or parameters.keys() != parts.keys():
        raise ValueError("it has no weights of such a model")
    _refuse_misfits(parameters, parts)
    model.set_parameters(parameters, exact_match=True, device=model.device)


def load_state_dict(state_dict: Any, part: torch.nn.Module | torch.optim.Optimizer) -> None:
    """Load a state dict into a network or an optimizer that it fits.

    :raises ValueError: if it does not fit
    """
    name = type(part).__name__
    if not isinstance(state_dict, dict):
        raise ValueError(f"it has no state of a {name}")
    state_dicts = {name: state_dict}
    _refuse_misfits(state_dicts, {name: part})
    part.load_state_dict(state_dicts[name])


def _refuse_misfits(state_dicts: dict[str, Any], parts: Mapping[str, Any]) -> None:
    try:
        _check_parts(state_dicts, parts)
    except _MisfitError as error:
        raise ValueError(str(error)) from error


def _get_parts(model: BaseAlgorithm) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the modules and optimizers of a model, and its tensors that belong to none of them."""
    part_names, variable_names = model._get_torch_save_params()
    variables = {name: recursive_getattr(model, name) for name in variable_names}
    parts = {name: recursive_getattr(model, name) for name in part_names}
    return parts, {name: variable for name, variable in variables.items() if isinstance(variable, torch.Tensor)}


# --- reading --------------------------------------------------------------------------------------------------------


def _read(
    path: Path, parts: Mapping[str, Any], variables: Mapping[str, torch.Tensor], optional: Collection[str] = ()
) -> dict[str, Any]:
    """Read the state dict of each part, of no more bytes than the part can have.

    :param optional: parts that the zip may lack
    """
    limits = {name: _get_size_limits(part) for name, part in parts.items()}
    if variables:
        limits[_VARIABLES] = _get_size_limits(variables)
    with path.open("rb") as file, zipfile.ZipFile(BoundedFile(file)) as archive:
        members = _check_members(archive, limits, optional)
        present = [name for name in limits if f"{name}.pth" in members]
        return {name: _read_part(archive, members[f"{name}.pth"], *limits[name]) for name in present}


def _check_members(
    archive: zipfile.ZipFile, names: Iterable[str], optional: Collection[str]
) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an SB3 zip by name, if they are those of the model."""
    members = {info.filename: info for info in archive.infolist()}
    if _FORMER_VARIABLES in members:
        members.setdefault(f"{_VARIABLES}.pth", members.pop(_FORMER_VARIABLES))
    expected = {f"{name}.pth": name for name in names}
    if len(members) != len(archive.infolist()):
        raise DamagedFileError("it has two members of one name")
    if not any(name.endswith(".pth") for name in members):
        raise DamagedFileError("it has no parameters")
    if missing := [member for member, name in expected.items() if member not in members and name not in optional]:
        raise _MisfitError(f"it has no {missing[0]}")
    if unexpected := sorted(members.keys() - {*expected, *_IGNORED_MEMBERS, f"{_VARIABLES}.pth"}):
        raise _MisfitError(f"it has {unexpected[0][:80]!r}, which this model lacks")
    return members


def _read_part(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int, max_tensors: int) -> dict[Any, Any]:
    try:
        state_dict = read_torch_file(read_member(archive, info, max_bytes), max_tensors)
    except DamagedFileError as error:
        raise DamagedFileError(f"{info.filename}: {error}") from None
    except Exception as error:  # zipfile, zlib and pickletools raise many types
        raise DamagedFileError(f"{info.filename}: {type(error).__name__}: {error}") from error
    if not isinstance(state_dict, dict):
        raise DamagedFileError(f"{info.filename}: it is no mapping")
    return state_dict


def _get_size_limits(part: Any) -> tuple[int, int]:
    """Return about how many bytes the file of a part can have at most, and how many tensors."""
    if isinstance(part, torch.optim.Optimizer):
        tensors = _list_parameters(part) * _TENSORS_PER_PARAMETER
    else:
        values = part.values() if isinstance(part, Mapping) else part.state_dict().values()
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    # twice the size, so that a message can name another dtype
    return 2 * size + _SLACK + _SLACK_PER_TENSOR * len(tensors), len(tensors)


# --- checking -------------------------------------------------------------------------------------------------------


def _check_parts(state_dicts: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Check the state dict of each part, and replace a module's by one without anything else in it."""
    for name, part in parts.items():
        if isinstance(part, torch.optim.Optimizer):
            _check_optimizer(name, state_dicts[name], part)
        else:
            state_dicts[name] = _check_module(name, state_dicts[name], part)


def _check_module(name: str, state_dict: dict[Any, Any], module: torch.nn.Module) -> OrderedDict[str, Any]:
    expected = module.state_dict()
    if missing := [key for key in expected if key not in state_dict]:
        raise _MisfitError(f"{name} has no {missing[0]!r}")
    if unexpected := [key for key in state_dict if key not in expected]:
        raise _MisfitError(f"{name} has {str(unexpected[0])[:80]!r}, which this model lacks")
    for key, tensor in expected.items():
        _check_tensor(f"{name}: {key}", state_dict[key], tensor)
    own_state: OrderedDict[str, Any] = OrderedDict((key, state_dict[key]) for key in expected)
    if hasattr(expected, "_metadata"):
        own_state._metadata = expected._metadata  # type: ignore[attr-defined]
    return own_state


def _check_optimizer(name: str, state_dict: dict[Any, Any], optimizer: torch.optim.Optimizer) -> None:
    groups, state = state_dict.get("param_groups"), state_dict.get("state")
    if state_dict.keys() != {"param_groups", "state"} or not isinstance(groups, list) or not isinstance(state, dict):
        raise _MisfitError(f"{name} is the state of no optimizer")
    expected = optimizer.state_dict()["param_groups"]
    if [_get_group_params(group) for group in groups] != [_get_group_params(group) for group in expected]:
        raise _MisfitError(f"{name} is of other parameters")
    for group in groups:
        _check_settings(name, group)
    _check_moments(name, state, _list_parameters(optimizer))


def _check_moments(name: str, state: dict[Any, Any], parameters: list[torch.Tensor]) -> None:
    for index, values in state.items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(values, dict):
            raise _MisfitError(f"{name} has state of a parameter that does not exist")
        for key, value in values.items():
            _check_moment(f"{name}: {str(key)[:80]} of parameter {index}", key, value, parameters[index])


def _check_moment(location: str, key: Any, value: Any, parameter: torch.Tensor) -> None:
    """Check what an optimizer stores of a parameter: a moment, a step count."""
    if isinstance(value, torch.Tensor):
        # a fused step reads as many numbers as the parameter has, without a check
        if value.numel() != 1 if key in _SCALARS else value.shape != parameter.shape:
            raise _MisfitError(f"{location} has the shape {_format_shape(value)}, for {_format_shape(parameter)}")
        _check_finite(location, value)
    elif value is not None and type(value) not in (bool, int, float):
        raise _MisfitError(f"{location} is neither a tensor nor a number")


def _check_settings(name: str, group: Mapping[Any, Any]) -> None:
    """Check that the learning rate and the like of a parameter group are finite numbers."""
    for key, setting in group.items():
        values: Iterable[Any] = setting if isinstance(setting, list | tuple) else [setting]
        is_plain = all(value is None or type(value) in (bool, int, float, str) for value in values)
        if type(key) is not str or not is_plain:
            raise _MisfitError(f"{name}: {str(key)[:80]} is no setting of an optimizer")
        with suppress(OverflowError):
            if all(abs(value) < float("inf") for value in values if type(value) in (int, float)):
                continue
        raise _MisfitError(f"{name}: {key[:80]} is not finite")


def _check_tensor(name: str, tensor: Any, expected: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise _MisfitError(f"{name} is no tensor")
    if tensor.shape != expected.shape:
        raise _MisfitError(f"{name} has the shape {_format_shape(tensor)} and should have {_format_shape(expected)}")
    if tensor.dtype != expected.dtype:
        raise _MisfitError(f"{name} holds {tensor.dtype} and should hold {expected.dtype}")
    _check_finite(name, tensor)


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise _MisfitError(f"{name} holds numbers that are not finite (NaN or infinite)")


def _list_parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _get_group_params(group: Any) -> Any:
    return group.get("params") if isinstance(group, dict) else None


def _format_shape(tensor: torch.Tensor) -> str:
    text = str(tuple(tensor.shape))
    return text if len(text) < 80 else f"{text[:80]}..."
