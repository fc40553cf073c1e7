"""The promises of a wrapper."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.passive_env_checker import data_shares_objects

from toolkit.config.load import ResolvedConfig
from toolkit.envs.factory import make_env
from toolkit.snapshots import archive
from toolkit.testing.component import (
    DEFAULT_ENV,
    NO_PARAMS,
    SEED,
    STATE_ADVICE,
    ConformanceError,
    Env,
    make_config,
    make_env_config,
    name_component,
    report_exceptions,
)
from toolkit.testing.parameter_changes import check_parameter_changes
from toolkit.testing.scripted_env import MARKED_OPTIONS
from toolkit.testing.vector_forms import check_vector_form
from toolkit.testing.wrapper_harness import (
    ResetLearnedState,
    Step,
    WrapperHarness,
    build_harness,
    describe_difference,
)
from toolkit.utils.errors import ConfigError, Problem, describe_error

_N_STEPS = 60
_ENDS = {"terminated": (True, False), "truncated": (False, True), "terminated and truncated at once": (True, True)}
_RECOMMENDATION = re.compile("infinity|symmetric and normalized|different from the unwrapped")  # about spaces


def check_wrapper(
    wrapper: str | type[gym.Wrapper[Any, Any, Any, Any]],
    *,
    params: Mapping[str, Any] = NO_PARAMS,
    env: Env = DEFAULT_ENV,
    is_base: bool = False,
) -> None:
    """Check that a wrapper keeps Gymnasium's API and the toolkit's, where it stands outside Monitor.

    It passes ``gymnasium.utils.env_checker.check_env``. Each of its steps is one step inside. It passes on seed,
    options, rendering and closing, and also how an episode ends, unless it ends episodes itself. The same seed and
    actions give the same episodes. Another instance continues identically from its saved state. A parameter in its
    ``changeable_params``, or with a schedule in ``params``, takes another value where an episode starts.

    :param wrapper: its name or its class
    :param params: arguments of its constructor besides ``env``
    :param env: an environment that it can wrap: a Gymnasium id, or a mapping like ``env`` in the YAML, whose wrappers
        are further inside
    :param is_base: whether to check it among ``base_wrappers``, where it is part of the environment
    :raises ConformanceError: with the first promise that it breaks, and what to change
    :raises ToolkitError: if the wrapper does not exist or cannot be built, or the environment is faulty without it
    """
    with name_component(wrapper) as name:
        env_config = make_env_config(env)
        key = "base_wrappers" if is_base else "wrappers"
        wrappers = [*env_config.get(key, []), {"name": name, "params": dict(params)}]
        sections = {**env_config, "wrappers": [], key: wrappers}  # what is outside a base wrapper is not checked
        config = make_config(timesteps=1, env=sections, algorithm="ppo")
        bare_warnings = _check_bare_env(config)
        _check_api(config)
        _check_episode_ends(config)
        _check_repeatable(config)
        _check_state_transfer(config)
        _check_render_and_close(config)
        _check_gymnasium_checker(config, bare_warnings)
        check_vector_form(config, check_parameter_changes(config))


def _check_bare_env(config: ResolvedConfig) -> set[str]:
    """Return the warnings of Gymnasium's checker about the environment without the wrapper.

    :raises ConfigError: if the environment does not pass the checker
    """
    components = config.components
    if not components.wrappers:  # the environment is complete only with its base wrapper
        with components.env.build() as raw_env:
            return _collect_warnings(raw_env, is_complete=False)
    env = make_env(config, components.env, components.base_wrappers, components.wrappers[:-1])
    try:
        return _collect_warnings(ResetLearnedState(env, env))
    except Exception as error:
        hint = "check the wrapper in an environment that does"
        problem = Problem(
            ("env",), f"'{config.env.name}' does not pass Gymnasium's check_env: {describe_error(error)}", hint
        )
        raise ConfigError([problem]) from error
    finally:
        env.close()


def _collect_warnings(env: gym.Env[Any, Any], is_complete: bool = True) -> set[str]:
    """Run Gymnasium's checker and return its warnings, without recommendations.

    :param is_complete: whether the environment must pass the checker
    """
    with warnings.catch_warnings(record=True) as caught, nullcontext() if is_complete else suppress(Exception):
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True, skip_close_check=True)
    texts = {re.sub(r"\x1b\[\d+m|WARN: ", "", str(warning.message)) for warning in caught}
    return {text for text in texts if not _RECOMMENDATION.search(text)}


def _check_gymnasium_checker(config: ResolvedConfig, bare_warnings: set[str]) -> None:
    """Run Gymnasium's own checker on the wrapper."""
    with build_harness(config) as harness:
        advice = "gymnasium.utils.env_checker.check_env reports this: correct what it names"
        with report_exceptions(f"check_env of {harness.name}", advice):
            new_warnings = _collect_warnings(ResetLearnedState(harness.wrapper, harness.env)) - bare_warnings
        if new_warnings:
            raise ConformanceError(f"{harness.name}: {min(new_warnings)}; {advice}")


def _check_api(config: ResolvedConfig) -> None:
    """Check what reset and step return, what reset passes on, and that each observation is a new object."""
    with build_harness(config) as harness:
        actions = harness.sample_actions(_N_STEPS)
        for arguments in ({"seed": SEED}, {"seed": SEED, "options": MARKED_OPTIONS}, {}):
            harness.monitor.reset_arguments.clear()
            n_actions = len(harness.monitor.actions)
            harness.reset(**arguments)
            _check_inner_reset(harness, arguments, len(harness.monitor.actions) - n_actions)
        harness.play(actions, seed=SEED)
        observations = [harness.wrapper.reset()[0], harness.wrapper.step(actions[0])[0]]
        if data_shares_objects(*observations):
            advice = "SB3's buffers and n-step returns keep a reference: return a new array or a copy each time"
            raise ConformanceError(
                f"{harness.name} returned the same observation object twice, with new content; {advice}"
            )


def _check_inner_reset(harness: WrapperHarness, arguments: dict[str, Any], n_steps: int) -> None:
    """Check how a reset with these arguments reset the environment inside.

    :param n_steps: steps inside during the reset
    """
    inner_resets = harness.monitor.reset_arguments
    if not inner_resets:
        advice = "call self.env.reset(seed=seed, options=options)"
        raise ConformanceError(f"{harness.name}.reset did not reset the environment inside; {advice}")
    if n_steps:
        advice = "they would count in the return and the length of every episode: leave steps to the agent"
        raise ConformanceError(f"{harness.name}.reset took {n_steps} steps in the environment inside; {advice}")
    for name in ("seed", "options"):
        expected, values = arguments.get(name), [inner_reset.get(name) for inner_reset in inner_resets]
        if expected not in values:
            observed = f"{harness.name}.reset({name}={expected!r}) reset the environment inside with {values[0]!r}"
            raise ConformanceError(f"{observed}; pass {name} on: self.env.reset(seed=seed, options=options)")


def _check_episode_ends(config: ResolvedConfig) -> None:
    """Play one episode several times, each with a different end.

    The first has no end inside. It shows whether and where the wrapper ends episodes itself.
    """
    with build_harness(config) as harness:
        own_end, end_step = _play_until(harness, (False, False), 3)
    for what, flags in _ENDS.items():
        with build_harness(config) as harness:
            last_step, _ = _play_until(harness, flags, end_step)
        own_flags = (own_end.terminated, own_end.truncated)
        for field, inner_flag, own_flag in zip(("terminated", "truncated"), flags, own_flags, strict=True):
            value, expected = getattr(last_step, field), inner_flag or own_flag
            if value is not expected:
                advice = (
                    "a terminated episode is over, a truncated one has a value beyond its end: learning depends on "
                    "the difference. Return both flags as self.env.step returned them"
                )
                raise ConformanceError(
                    f"{harness.name}.step returned {field}={value} where the episode inside {what}, instead of "
                    f"{field}={expected}; {advice}"
                )


def _play_until(harness: WrapperHarness, flags: tuple[bool, bool], end_step: int) -> tuple[Step, int]:
    """Play until the episode ends, inside or by the wrapper; return the last step, and its number inside."""
    script = harness.monitor.script
    script.flags, script.end_step = flags, end_step
    step = harness.reset(seed=SEED)
    for action in harness.sample_actions(end_step):
        step = harness.step(action)
        if step.is_last or script.has_ended:
            break
    return step, script.n_steps


def _check_repeatable(config: ResolvedConfig) -> None:
    """Check that the same seed and actions give the same episodes."""
    advice = (
        "draw from self.np_random, or from a generator that reset(seed=...) seeds, and start every episode anew. "
        "Return what it learns across episodes on purpose from state_dict, and restore it in load_state_dict"
    )
    with build_harness(config) as harness, build_harness(config) as other_harness:
        actions = harness.sample_actions(_N_STEPS)
        same_harness = replace(harness, wrapper=ResetLearnedState(harness.wrapper, harness.env))
        steps = same_harness.play(actions, seed=SEED)
        for repeated, where, reset_advice in (
            (other_harness, "in two instances", ""),
            (same_harness, "after a second reset", "reset per-episode state in reset(); "),
        ):
            if difference := describe_difference(steps, repeated.play(actions, seed=SEED)):
                observed = f"the same seed and actions gave different episodes {where}: {difference}"
                raise ConformanceError(f"{harness.name}: {observed}; {reset_advice}{advice}")


def _check_state_transfer(config: ResolvedConfig) -> None:
    """Stop in a later episode, restore its state in another instance, and compare how both continue."""
    with ExitStack() as stack:
        harness, other_harness = (stack.enter_context(build_harness(config)) for _ in range(2))
        actions = harness.sample_actions(2 * _N_STEPS)
        harness.env.reset(seed=SEED)
        _continue(harness, actions[:_N_STEPS])
        prefix = f"wrapper {harness.name}: "
        unsaved = [name for name in harness.env.list_unrestorable() if name.startswith(prefix)]
        if unsaved:
            names = ", ".join(name.removeprefix(prefix) for name in unsaved)
            raise ConformanceError(
                f"{harness.name}: {names} cannot be saved, so a run could not be resumed exactly; {STATE_ADVICE}"
            )
        with report_exceptions(f"restoring the state of {harness.name} in another instance", STATE_ADVICE):
            difference = other_harness.env.replay(_write_and_read(harness.env.replay_state()))
        if difference:
            observed = f"another instance with the same seed and actions {difference}"
            advice = "reset and step the environment inside with the seed and the actions given"
            raise ConformanceError(f"{harness.name}: {observed}; {advice}; {STATE_ADVICE}")
        steps, other_steps = (_continue(each, actions[_N_STEPS:]) for each in (harness, other_harness))
        if difference := describe_difference(steps, other_steps):
            observed = f"another instance with its state continues differently: {difference}"
            raise ConformanceError(f"{harness.name}: {observed}; {STATE_ADVICE}")


def _continue(harness: WrapperHarness, actions: list[Any]) -> list[Step]:
    """Take steps in the whole environment, which seeds its resets."""
    steps = []
    for action in actions:
        steps.append(Step(*copy.deepcopy(harness.env.step(action)[:4])))
        if steps[-1].is_last:
            harness.env.reset()
    return steps


def _write_and_read(state: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        archive.write(Path(folder) / "state", state)
        restored_state: dict[str, Any] = archive.read(Path(folder) / "state")
        return restored_state


def _check_render_and_close(config: ResolvedConfig) -> None:
    """Check that rendering and closing reach the environment inside."""
    with build_harness(config) as harness:
        modes = harness.monitor.metadata.get("render_modes") or ()
    mode = "rgb_array" if "rgb_array" in modes else None
    with build_harness(config, mode) as harness:
        harness.play(harness.sample_actions(1), seed=SEED)
        if harness.wrapper.render_mode != mode:
            observed = f"{harness.name}.render_mode is {harness.wrapper.render_mode!r} where it is {mode!r} inside"
            raise ConformanceError(f"{observed}; videos depend on it: leave the attribute to gymnasium.Wrapper")
        if mode is not None:
            _check_frame(harness)
        with report_exceptions(f"{harness.name}.close()", "close releases resources and raises nothing"):
            harness.wrapper.close()
        if not harness.monitor.is_closed:
            raise ConformanceError(f"{harness.name}.close did not close the environment inside; call super().close()")


def _check_frame(harness: WrapperHarness) -> None:
    advice = (
        "with render_mode 'rgb_array' it returns a frame, an array of shape (height, width, 3): "
        "return self.env.render(), or do not define render"
    )
    with report_exceptions(f"{harness.name}.render()", advice):
        frame: Any = harness.wrapper.render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3:
        shape = f"an array of shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ConformanceError(f"{harness.name}.render returned {shape}; {advice}")
