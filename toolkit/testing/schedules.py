"""The promises of a schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from toolkit.config.registry import KINDS, find
from toolkit.testing.component import (
    NO_PARAMS,
    ConformanceError,
    build_component,
    name_component,
    report_exceptions,
)

_Arguments = tuple[Any, ...]
_BELOW_ZERO = (-0.05,)
_PROGRESS: list[_Arguments] = [*((1 - step / 20,) for step in range(21)), _BELOW_ZERO]
_EPISODES: list[_Arguments] = [(episode, 20 * episode) for episode in (0, 1, 2, 10, 1_000, 100_000)]


def check_schedule(schedule: str | type[Any], *, params: Mapping[str, Any] = NO_PARAMS) -> None:
    """Check that a schedule returns a finite number that depends on its arguments alone.

    A schedule with one argument is called as SB3 calls it: ``progress_remaining`` from 1 to 0 and a little below. One
    with two arguments is called as ``DoubleDQN``'s ``exploration``: an episode and a timestep, for a number from 0 to
    1. Numbers of the first kind may be negative, as a schedule may be of anything.

    :param schedule: its name or its class
    :param params: arguments of its constructor
    :raises ConformanceError: with the first promise that it breaks, and what to change
    :raises ToolkitError: if the schedule does not exist or cannot be built
    """
    with name_component(schedule) as name:
        cls = find(KINDS["schedules"], name)
    label = cls.__name__
    first, second = build_component(cls, params), build_component(cls, params)
    samples = _choose_samples(label, first)
    values = {arguments: _call(label, first, arguments) for arguments in samples}
    for instance, order in ((first, samples), (second, samples[::-1])):
        repeated_values = {arguments: _call(label, instance, arguments) for arguments in order}
        for arguments, value in values.items():
            if repeated_values[arguments] != value:
                calls = f"{value!r} and then {repeated_values[arguments]!r} for {_format(arguments)}"
                advice = "compute the value from the arguments alone: keep no count, draw no random numbers"
                raise ConformanceError(f"{label} returned {calls}; {advice}")


def _choose_samples(label: str, schedule: Callable[..., Any]) -> list[_Arguments]:
    """Return arguments to call a schedule with: remaining progress, or episode and timestep."""
    signature = inspect.signature(schedule)
    for samples in (_PROGRESS, _EPISODES):
        try:
            signature.bind(*samples[0])
        except TypeError:
            continue
        return samples
    raise ConformanceError(
        f"{label} is called with {signature}; SB3 calls a schedule with progress_remaining, from 1 to 0, and "
        "DoubleDQN calls exploration with (episode, timestep): define __call__(self, progress_remaining) or "
        "__call__(self, episode, timestep)"
    )


def _call(label: str, schedule: Callable[..., Any], arguments: _Arguments) -> float:
    advice = "return a finite float for every progress_remaining from 1 to 0"
    if arguments == _BELOW_ZERO:
        advice = (
            "SB3 goes below 0 if the last rollout is longer than the remaining timesteps: use "
            "max(progress_remaining, 0.0)"
        )
    elif len(arguments) == 2:
        advice = "return a float from 0 to 1 for every number of completed episodes and timesteps"
    with report_exceptions(f"{label} called with {_format(arguments)}", advice):
        value = schedule(*arguments)
    is_number = isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool)
    is_valid = is_number and np.isfinite(value) and (len(arguments) == 1 or 0 <= value <= 1)
    if not is_valid:
        raise ConformanceError(f"{label} returned {value!r} for {_format(arguments)}; {advice}")
    return float(value)


def _format(arguments: _Arguments) -> str:
    names = ("progress_remaining",) if len(arguments) == 1 else ("episode", "timestep")
    return ", ".join(f"{name}={value:g}" for name, value in zip(names, arguments, strict=True))
