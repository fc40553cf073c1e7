"""What a schedule promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from toolkit.config.registry import KINDS, find
from toolkit.testing.component import ConformanceError, build, called

_PROGRESS = [(1 - step / 20,) for step in range(21)]
_BEYOND = (-0.05,)
_EPISODES = [(episode, 20 * episode) for episode in (0, 1, 2, 10, 1_000, 100_000)]


def check(name: str, params: Mapping[str, Any]) -> None:
    """Check everything.

    :raises ConformanceError: with the first promise that is not kept
    :raises ComponentError: if there is no such schedule
    :raises ConfigError: if it cannot be built
    """
    cls = find(KINDS["schedules"], name)
    label = cls.__name__
    one, other = build(cls, params), build(cls, params)
    places = _places(label, one)
    values = [_value(label, one, place) for place in places]
    for schedule, order in ((one, places), (other, places[::-1])):
        again = {place: _value(label, schedule, place) for place in order}
        for place, value in zip(places, values, strict=True):
            if again[place] != value:
                seen = f"gave {value!r} and then {again[place]!r} for {_shown(place)}"
                advice = "what it is given decides alone: keep no count, and draw nothing"
                raise ConformanceError(f"{label} {seen}; {advice}")


def _places(label: str, schedule: Callable[..., Any]) -> list[tuple[Any, ...]]:
    """Return what a schedule is called with: the progress that remains, or an episode and a timestep."""
    signature = inspect.signature(schedule)
    for places in ([*_PROGRESS, _BEYOND], _EPISODES):
        try:
            signature.bind(*places[0])
        except TypeError:
            continue
        return [*places]
    raise ConformanceError(
        f"{label} is called with {signature}; SB3 calls a schedule with progress_remaining, which falls from 1 to 0, "
        "and DoubleDQN's exploration with (episode, timestep): define __call__(self, progress_remaining) or "
        "__call__(self, episode, timestep)"
    )


def _value(label: str, schedule: Callable[..., Any], place: tuple[Any, ...]) -> float:
    advice = "return a finite float for every progress_remaining from 1 to 0"
    if place == _BEYOND:
        advice = (
            "SB3 goes below 0 where the last rollout is longer than what remains: use max(progress_remaining, 0.0)"
        )
    elif len(place) == 2:
        advice = "return a float from 0 to 1 for every number of completed episodes and timesteps"
    with called(f"{label} called with {_shown(place)}", advice):
        value = schedule(*place)
    is_number = isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool)
    fits = is_number and np.isfinite(value) and (len(place) == 1 or 0 <= value <= 1)
    if not fits:
        raise ConformanceError(f"{label} gave {value!r} for {_shown(place)}; {advice}")
    return float(value)


def _shown(place: tuple[Any, ...]) -> str:
    names = ("progress_remaining",) if len(place) == 1 else ("episode", "timestep")
    return ", ".join(f"{name}={value:g}" for name, value in zip(names, place, strict=True))
