"""Statistics that SB3's ``VecNormalize.save`` wrote, read without running the pickle.

The file is a pickle of a ``VecNormalize``: also spaces, random generators and the last observations are in it. The
reader walks over these as inert records. It builds arrays only of the statistics, and checks every number of them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from toolkit.utils.errors import RunError
from toolkit.utils.pickles import Actions, DamagedFileError, Name, PickleReader, check_index, check_type

_MAX_BYTES = 64 << 20  # of the file: it has the last observations too, of all environments
_MAX_DIMENSIONS = 16
_CLASS = "stable_baselines3.common.vec_env.vec_normalize VecNormalize"
_STATISTICS = "stable_baselines3.common.running_mean_std RunningMeanStd"
_DICT = "collections OrderedDict"
_ARRAY = re.compile(r"numpy\.(_?core)\.multiarray _reconstruct")
_BUFFER = re.compile(r"numpy\.(_?core)\.numeric _frombuffer")
_SCALAR = re.compile(r"numpy\.(_?core)\.multiarray scalar")
_DTYPE = "numpy dtype"
_KNOWN = {_CLASS, _STATISTICS, _DICT, _DTYPE, "numpy ndarray", "builtins set", "builtins frozenset"}
_KNOWN_PATTERNS = (
    *(_ARRAY, _BUFFER, _SCALAR),
    re.compile(r"numpy (bool_?|u?int\d+|float\d+|str_)"),
    re.compile(r"numpy\.random(\.\w+)* \w+"),  # generators of spaces
    re.compile(r"(gym|gymnasium)\.spaces\.\w+ [A-Z]\w*"),
)
_FLOATS: dict[str, type[np.floating[Any]]] = {"f4": np.float32, "f8": np.float64}
_SETTINGS = ("norm_obs", "norm_obs_keys", "clip_obs", "epsilon")  # what decides how an observation is normalized


@dataclass(frozen=True)
class RunningStatistics:
    """Mean, variance and number of the values of one kind, finite.

    :param mean: float64, of the shape of one value
    :param variance: of the same shape, not negative
    :param count: greater than 0
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    count: float


@dataclass(frozen=True)
class NormalizationStatistics:
    """What a ``VecNormalize`` has learned.

    :param observations: by key if the observations are a dict; ``None`` if it does not normalize observations
    :param returns: of the discounted returns, which scale rewards
    :param settings: its parameters that decide how an observation is normalized
    """

    observations: RunningStatistics | dict[str, RunningStatistics] | None
    returns: RunningStatistics
    settings: dict[str, Any]


def read_statistics(path: Path) -> NormalizationStatistics:
    """Read the statistics in a file of ``VecNormalize.save``.

    :param path: a file of unknown origin, at most 64 MiB
    :raises RunError: if it cannot be read, is damaged, or holds anything else
    """
    try:
        if not path.is_file():
            raise RunError(f"{path}: {'is not a file' if path.exists() else 'does not exist'}")
        size = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(min(size, _MAX_BYTES))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if size > _MAX_BYTES:
            raise DamagedFileError(f"it is larger than {_MAX_BYTES >> 20} MiB")
        return _convert(_VecNormalizeReader().run(content))
    except DamagedFileError as error:
        raise RunError(f"{path}: is damaged, or no VecNormalize: {error}") from None
    except Exception as error:  # pickletools and numpy raise many types
        raise RunError(f"{path}: is damaged, or no VecNormalize: {type(error).__name__}: {error}") from error


def load_statistics(statistics: NormalizationStatistics, normalizer: VecNormalize) -> None:
    """Put statistics into a ``VecNormalize`` with the same settings.

    :raises ValueError: if they are of other observations
    """
    if statistics.observations is not None:
        own = normalizer.obs_rms
        if isinstance(own, dict):
            saved = statistics.observations
            if not isinstance(saved, dict) or saved.keys() != own.keys():
                raise ValueError(f"it has no statistics of {', '.join(own)}")
            for key, target in own.items():
                _load(saved[key], target, f"statistics of {key!r}")
        elif isinstance(statistics.observations, dict):
            raise ValueError("it has statistics of a dict of observations")
        else:
            _load(statistics.observations, own, "statistics of observations")
    _load(statistics.returns, normalizer.ret_rms, "statistics of returns")


def _load(saved: RunningStatistics, target: RunningMeanStd, name: str) -> None:
    if saved.mean.shape != target.mean.shape:
        raise ValueError(f"its {name} have the shape {saved.mean.shape} and should have {target.mean.shape}")
    target.mean, target.var, target.count = saved.mean, saved.variance, saved.count


# --- reading --------------------------------------------------------------------------------------------------------


class _Record:
    """An object in the pickle: its class as a name, its arguments and its state. It is never built."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: Name, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None


class _VecNormalizeReader(PickleReader):
    """The part of pickle's machine that holds a ``VecNormalize``; every object in it becomes a record."""

    purpose = "VecNormalize statistics"
    arguments = PickleReader.arguments | {"SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}

    def is_known(self, name: str) -> bool:
        return name in _KNOWN or any(pattern.fullmatch(name) for pattern in _KNOWN_PATTERNS)

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        return {} if name == _DICT and not arguments else _Record(name, arguments)

    def set_state(self, value: Any, state: Any) -> None:
        _check_record(value).state = state

    def _push_stacked_name(self, _: Any) -> None:
        module, name = (check_type(str, part) for part in self._pop(2))
        self._push_name(f"{module} {name}")

    def _add_to_set(self, _: Any) -> None:
        """Leave a set empty: no statistics are in it, and hashing nested tuples overflows the stack."""
        self._pop_to_mark()
        check_type(set, self._top())

    actions: ClassVar[Actions] = PickleReader.actions | {
        "FRAME": PickleReader._skip,
        "MEMOIZE": lambda self, _: self._memoize(len(self._memo)),
        "STACK_GLOBAL": _push_stacked_name,
        "NEWOBJ": PickleReader._call,
        "EMPTY_SET": lambda self, _: self._stack.append(set()),
        "ADDITEMS": _add_to_set,
    }


def _convert(value: Any) -> NormalizationStatistics:
    state = _get_attributes(value, _CLASS)
    settings = {name: _read_setting(name, state[name]) for name in _SETTINGS if name in state}
    observations = None
    if settings.get("norm_obs", True):
        saved = state.get("obs_rms")
        observations = (
            {check_type(str, key): _read_running(item) for key, item in saved.items()}
            if isinstance(saved, dict)
            else _read_running(saved)
        )
    return NormalizationStatistics(observations, _read_running(state.get("ret_rms")), settings)


def _read_setting(name: str, value: Any) -> Any:
    if name == "norm_obs":
        return check_type(bool, value)
    if name == "norm_obs_keys":
        return None if value is None else [check_type(str, key) for key in check_type(list, value)]
    number = float(_read_array(value).item())
    if not 0 < number < math.inf:
        raise DamagedFileError(f"{name} is {number}")
    return number


def _get_attributes(value: Any, class_name: str) -> dict[Any, Any]:
    if not isinstance(value, _Record) or value.name != class_name:
        raise DamagedFileError(f"it has no {class_name.rpartition(' ')[2]} where one should be")
    return check_type(dict, value.state)


def _check_record(value: Any) -> _Record:
    if not isinstance(value, _Record):
        raise DamagedFileError(f"it has a {type(value).__name__} where an object should be")
    return value


def _read_running(value: Any) -> RunningStatistics:
    attributes = _get_attributes(value, _STATISTICS)
    mean, variance, count = (_read_array(attributes.get(name)) for name in ("mean", "var", "count"))
    if mean.shape != variance.shape or count.shape:
        raise DamagedFileError(f"a mean of the shape {mean.shape} has a variance of the shape {variance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and np.isfinite(count).all()):
        raise DamagedFileError("its statistics have numbers that are not finite (NaN or infinite)")
    if (variance < 0).any() or count <= 0:
        raise DamagedFileError("its statistics have a negative variance, or count no values")
    return RunningStatistics(mean, variance, float(count))


def _read_array(value: Any) -> NDArray[np.float64]:
    """Return an array, a numpy scalar or a number as float64."""
    if type(value) in (int, float):
        return np.array(float(value))
    record = _check_record(value)
    if _ARRAY.fullmatch(record.name):
        _, shape, dtype, is_fortran, content = check_type(tuple, record.state)
    elif _BUFFER.fullmatch(record.name):
        content, dtype, shape, order = record.arguments
        is_fortran = order == "F"
    elif _SCALAR.fullmatch(record.name):
        (dtype, content), shape, is_fortran = record.arguments, (), False
    else:
        raise DamagedFileError(f"it has {record.name[:80]!r} where an array should be")
    return _build_array(shape, _read_dtype(dtype), content, bool(is_fortran))


def _build_array(shape: Any, dtype: type[np.floating[Any]], content: Any, is_fortran: bool) -> NDArray[np.float64]:
    sizes = [check_index(size) for size in check_type(tuple, shape)]
    content = check_type(bytes | bytearray, content)  # type: ignore[arg-type]  # objects would be in a list
    if len(sizes) > _MAX_DIMENSIONS or math.prod(sizes) * np.dtype(dtype).itemsize != len(content):
        raise DamagedFileError(f"an array has {len(content):,} bytes, which its shape does not need")
    array = np.frombuffer(content, np.dtype(dtype).newbyteorder("<")) if content else np.empty(0)
    return array.reshape(sizes, order="F" if is_fortran else "C").astype(np.float64)


def _read_dtype(value: Any) -> type[np.floating[Any]]:
    """Return float32 or float64, of little-endian numbers."""
    record = _check_record(value)
    name = check_type(str, record.arguments[0]) if record.name == _DTYPE and record.arguments else ""
    order = check_type(tuple, record.state)[1] if record.state else None
    if name not in _FLOATS or order != "<":
        raise DamagedFileError("an array has other numbers than float32 or float64")
    return _FLOATS[name]
