"""The promise of a wrapper's changeable parameters: after a change, episodes are those of a wrapper built so."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig, load_config
from toolkit.config.schedules import DECLARATION
from toolkit.config.signatures import read_signature
from toolkit.envs.parameters import Values, format_path
from toolkit.testing.component import SEED, ConformanceError, report_exceptions
from toolkit.testing.wrapper_harness import Step, WrapperHarness, build_harness, describe_difference
from toolkit.utils.errors import ConfigError

_N_STEPS = 60


def check_parameter_changes(config: ResolvedConfig) -> Values:
    """Change each parameter that a config's last wrapper lists in ``changeable_params``, or that has a schedule.

    An episode that starts after the change is compared with one of another wrapper, built with the new value. Several
    values are tried, as far as the constructor takes them.

    :return: for each parameter a value that makes a difference, by its dotted path
    :raises ConformanceError: if the list names no parameter of the constructor, or the episodes differ
    """
    *_, subject = [*config.components.base_wrappers, *config.components.wrappers]
    values: Values = {}
    for name in dict.fromkeys([*getattr(subject.cls, DECLARATION, ()), *subject.schedules]):
        if name not in read_signature(subject.cls).parameters:
            label = f"{subject.cls.__name__}.{DECLARATION}"
            raise ConformanceError(
                f"{label} lists '{name}', which is no parameter of its constructor; correct the name"
            )
        path = format_path((*subject.path, "params", name))
        before = _play_built(config)
        for value in _choose_values(subject, name):
            try:
                expected = _play_built(load_config(config, {path: value}))
            except (ConfigError, ConformanceError):  # the constructor, or an episode, refuses this value
                continue
            _compare(config, path, value, expected)
            if describe_difference(before, expected):
                values.setdefault(path, value)
    return values


def _choose_values(subject: BoundComponent, name: str) -> Iterator[Any]:
    """Yield other values of a parameter: those of its schedule, or numbers near its own."""
    if (schedule := subject.schedules.get(name)) is not None and not schedule.follows_episodes:
        yield from (schedule.compute(progress_remaining, ()) for progress_remaining in (0.0, 0.5))
        return
    value = subject.get_argument(name)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        others = (type(value)(other) for other in (2 * value, value / 2, 0, value + 1, value - 1))
        yield from (other for other in others if other != value)


def _compare(config: ResolvedConfig, path: str, value: Any, expected: list[Step]) -> None:
    name = path.rpartition(".")[2]
    with build_harness(config) as harness:
        label = harness.name
        advice = f"read self.{name} in each step, or define set_{name}(value)"
        with report_exceptions(f"a change of {name} to {value!r} in {label}", advice):
            learned = copy.deepcopy(harness.env.learned_states())
            _play(harness)
            harness.env.plan_parameters({path: value})
            harness.env.load_wrapper_states(learned)
            steps = _play(harness)
    if difference := describe_difference(steps, expected):
        observed = f"an episode that starts after {name} changes to {value!r} is not that of a wrapper built so"
        raise ConformanceError(f"{label}: {observed}: {difference}; {advice}, and derive nothing from it earlier")


def _play_built(config: ResolvedConfig) -> list[Step]:
    with build_harness(config) as harness:
        return _play(harness)


def _play(harness: WrapperHarness) -> list[Step]:
    """Play episodes in the whole environment, the same in every call."""
    steps = [Step(copy.deepcopy(harness.env.reset(seed=SEED)[0]))]
    for action in harness.sample_actions(_N_STEPS):
        steps.append(Step(*copy.deepcopy(harness.env.step(action)[:4])))
        if steps[-1].is_last:
            steps.append(Step(copy.deepcopy(harness.env.reset()[0])))
    return steps
