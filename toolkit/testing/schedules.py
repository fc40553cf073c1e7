"""The promises of a schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from toolkit.config.registry import KINDS, find
from toolkit.envs.episodes import Episode
from toolkit.testing.component import (
    NO_PARAMS,
    ConformanceError,
    build_component,
    name_component,
    report_exceptions,
)


class _Episodes(tuple[Episode, ...]):
    """Training episodes, the only keyword argument of a call; its text in messages is their number."""

    def __repr__(self) -> str:
        return f"{len(self)} episodes"


_Arguments = tuple[Any, ...] | _Episodes
_BELOW_ZERO = (-0.05,)
_PROGRESS: list[_Arguments] = [*((1 - step / 20,) for step in range(21)), _BELOW_ZERO]
_EPISODES: list[_Arguments] = [(episode, 20 * episode) for episode in (0, 1, 2, 10, 1_000, 100_000)]
_LOG = [Episode(number - 20.0, 0.0, 20, 0.1 * number, 20 * number, number % 3 / 2) for number in range(1, 301)]
_LOGS: list[_Arguments] = [_Episodes(_LOG[:length]) for length in (0, 1, 2, 10, 99, 100, 300)]


def check_schedule(schedule: str | type[Any], *, params: Mapping[str, Any] = NO_PARAMS) -> None:
    """Check that a schedule returns a finite number that depends on its arguments alone.

    A schedule with one argument is called as SB3 calls it: ``progress_remaining`` from 1 to 0 and a little below. One
    with two arguments is called as ``DoubleDQN``'s ``exploration``: an episode and a timestep, for a number from 0 to
    1. One with the keyword ``episodes`` is called as for a parameter of an environment: with none, and with more and
    more training episodes. Numbers of the first and the last kind may be negative, as a schedule may be of anything.

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
    for samples in (_PROGRESS, _EPISODES, _LOGS):
        arguments, keywords = _split(samples[0])
        try:
            signature.bind(*arguments, **keywords)
        except TypeError:
            continue
        return samples
    raise ConformanceError(
        f"{label} is called with {signature}; SB3 calls a schedule with progress_remaining, from 1 to 0, and "
        "DoubleDQN calls exploration with (episode, timestep): define __call__(self, progress_remaining), "
        "__call__(self, episode, timestep), or __call__(self, *, episodes) for a parameter of an environment"
    )


def _split(arguments: _Arguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments of a call."""
    return ((), {"episodes": arguments}) if isinstance(arguments, _Episodes) else (arguments, {})


def _call(label: str, schedule: Callable[..., Any], arguments: _Arguments) -> float:
    advice = "return a finite float for every progress_remaining from 1 to 0"
    if arguments == _BELOW_ZERO:
        advice = (
            "SB3 goes below 0 if the last rollout is longer than the remaining timesteps: use "
            "max(progress_remaining, 0.0)"
        )
    elif isinstance(arguments, _Episodes):
        advice = "return a finite float for any number of training episodes, also for none"
    elif len(arguments) == 2:
        advice = "return a float from 0 to 1 for every number of completed episodes and timesteps"
    with report_exceptions(f"{label} called with {_format(arguments)}", advice):
        positional, keywords = _split(arguments)
        value = schedule(*positional, **keywords)
    is_share = len(arguments) == 2 and not isinstance(arguments, _Episodes)
    is_number = isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool)
    is_valid = is_number and np.isfinite(value) and (not is_share or 0 <= value <= 1)
    if not is_valid:
        raise ConformanceError(f"{label} returned {value!r} for {_format(arguments)}; {advice}")
    return float(value)


def _format(arguments: _Arguments) -> str:
    if isinstance(arguments, _Episodes):
        return repr(arguments)
    names = ("progress_remaining",) if len(arguments) == 1 else ("episode", "timestep")
    return ", ".join(f"{name}={value:g}" for name, value in zip(names, arguments, strict=True))
