"""What a wrapper promises."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
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
from toolkit.testing.component import SEED, STATE_ADVICE, ConformanceError, Env, called, config_of, env_of
from toolkit.testing.scripted_env import MARK
from toolkit.testing.wrapper_harness import AsNew, Rig, Step, difference, rigged
from toolkit.utils.errors import ConfigError, Problem, describe_error

_STEPS = 60
_ENDS = {"terminated": (True, False), "truncated": (False, True), "terminated and truncated at once": (True, True)}
_TASTE = re.compile(
    "infinity|symmetric and normalized|different from the unwrapped"
)  # advice on spaces, and no defect


def check(name: str, params: Mapping[str, Any], env: Env) -> None:
    """Check everything.

    :raises ConformanceError: with the first promise that is not kept
    :raises ConfigError: if the wrapper cannot be built, or the environment is faulty itself
    """
    parts = env_of(env)
    wrappers = [*parts.get("wrappers", []), {"name": name, "params": dict(params)}]
    config = config_of(timesteps=1, env={**parts, "wrappers": wrappers}, algorithm="ppo")
    known = _warnings_of_the_environment(config)
    for promise in (_keeps_the_api, _leaves_raw_returns, _passes_ends_on, _repeats_itself, _comes_back, _renders):
        promise(config)
    _passes_check_env(config, known)


def _warnings_of_the_environment(config: ResolvedConfig) -> set[str]:
    """Return what Gymnasium's checker has against the environment without the wrapper."""
    env = make_env(config, config.components.wrappers[:-1])
    try:
        return _gymnasium_warnings(AsNew(env, env))
    except Exception as error:
        hint = "check the wrapper in an environment that does"
        problem = Problem(
            ("env",), f"'{config.env.id}' does not pass Gymnasium's check_env: {describe_error(error)}", hint
        )
        raise ConfigError([problem]) from error
    finally:
        env.close()


def _gymnasium_warnings(env: gym.Env[Any, Any]) -> set[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True, skip_close_check=True)
    texts = {re.sub(r"\x1b\[\d+m|WARN: ", "", str(one.message)) for one in caught}
    return {text for text in texts if not _TASTE.search(text)}


def _passes_check_env(config: ResolvedConfig, known: set[str]) -> None:
    with rigged(config) as rig:
        advice = "this is what gymnasium.utils.env_checker.check_env says of it: mend what it names"
        with called(f"check_env of {rig.name}", advice):
            told = _gymnasium_warnings(AsNew(rig.wrapper, rig.env)) - known
        if told:
            raise ConformanceError(f"{rig.name}: {sorted(told)[0]}; {advice}")


def _keeps_the_api(config: ResolvedConfig) -> None:
    with rigged(config) as rig:
        actions = rig.actions(_STEPS)
        for given in ({"seed": SEED}, {"seed": SEED, "options": MARK}, {}):
            rig.inside.asked.clear()
            made = len(rig.inside.actions)
            rig.reset(**given)
            _check_reset(rig, given, len(rig.inside.actions) - made)
        rig.play(actions, seed=SEED)
        shown = [rig.wrapper.reset()[0], rig.wrapper.step(actions[0])[0]]
        if data_shares_objects(*shown):
            advice = (
                "SB3's buffers and n-step returns keep what they were given: return a new array or a copy each time"
            )
            raise ConformanceError(
                f"{rig.name} returned the same observation object twice, with new content; {advice}"
            )


def _check_reset(rig: Rig, given: dict[str, Any], steps: int) -> None:
    """Check what the environment inside was asked for at a reset."""
    asked = rig.inside.asked
    if not asked:
        advice = "call self.env.reset(seed=seed, options=options)"
        raise ConformanceError(f"{rig.name}.reset did not reset the environment inside; {advice}")
    if steps:
        advice = "the return and the length of every episode would count it: leave steps to the agent"
        raise ConformanceError(f"{rig.name}.reset made {steps} steps in the environment inside; {advice}")
    for name in ("seed", "options"):
        wanted, seen = given.get(name), [one.get(name) for one in asked]
        if wanted not in seen:
            advice = f"pass {name} on: self.env.reset(seed=seed, options=options)"
            raise ConformanceError(f"{rig.name}.reset({name}={wanted!r}) reset the inside with {seen[0]!r}; {advice}")


def _leaves_raw_returns(config: ResolvedConfig) -> None:
    with rigged(config) as rig:
        _end(rig, (True, False), 5)
        completed = rig.inside.pop_episode()
        raw = sum(rig.inside.rewards)
        if completed is not None and not np.isclose(completed["r"], raw, atol=1e-5):
            seen = f"an episode whose raw return is {raw:g} is counted with {completed['r']:g}"
            advice = "info['episode'] is Monitor's: copy info before changing it, and leave that entry"
            raise ConformanceError(f"{rig.name}: {seen}; {advice}")


def _passes_ends_on(config: ResolvedConfig) -> None:
    """Play one episode several times, with another end each time.

    Without an end it shows whether the wrapper ends episodes by itself, and where.
    """
    with rigged(config) as rig:
        own, at = _end(rig, (False, False), 3)
    for what, flags in _ENDS.items():
        with rigged(config) as rig:
            last, _ = _end(rig, flags, at)
        for part, inside, by_itself in zip(("terminated", "truncated"), flags, own[2:], strict=True):
            seen, expected = getattr(last, part), inside or by_itself
            if seen is not expected:
                advice = (
                    "a terminated episode is over, a truncated one was cut and has a value beyond: learning depends "
                    "on the difference. Return both as self.env.step gave them"
                )
                raise ConformanceError(
                    f"{rig.name}.step returned {part}={seen} where the episode inside {what}, and expected is "
                    f"{part}={expected}; {advice}"
                )


def _end(rig: Rig, flags: tuple[bool, bool], at: int) -> tuple[Step, int]:
    """Play until the episode ends, inside or by the wrapper; return the last step, and its number inside."""
    script = rig.inside.script
    script.ends, script.ends_at = flags, at
    step = rig.reset(seed=SEED)
    for action in rig.actions(at):
        step = rig.step(action)
        if step.ended or script.ended:
            break
    return step, script.steps


def _repeats_itself(config: ResolvedConfig) -> None:
    advice = (
        "draw from self.np_random, or from a generator that reset(seed=...) seeds, and start every episode as new. "
        "What it learns from one episode to the next on purpose, it offers as state_dict and load_state_dict"
    )
    with rigged(config) as rig, rigged(config) as other:
        actions = rig.actions(_STEPS)
        same = replace(rig, wrapper=AsNew(rig.wrapper, rig.env))
        first = same.play(actions, seed=SEED)
        forgets = "reset what it keeps from step to step in reset(); "
        for again, where, first_advice in ((other, "in two instances", ""), (same, "after a second reset", forgets)):
            if differing := difference(first, again.play(actions, seed=SEED)):
                seen = f"the same seed and actions gave different episodes {where}: {differing}"
                raise ConformanceError(f"{rig.name}: {seen}; {first_advice}{advice}")


def _comes_back(config: ResolvedConfig) -> None:
    """Stop within an episode that is not the first, put the state into another instance, and go on in both."""
    with ExitStack() as stack:
        rig, other = (stack.enter_context(rigged(config)) for _ in range(2))
        actions = rig.actions(2 * _STEPS)
        rig.env.reset(seed=SEED)
        _go_on(rig, actions[:_STEPS])
        own = f"wrapper {rig.name}: "
        if missed := [what.removeprefix(own) for what in rig.env.list_unrestorable() if what.startswith(own)]:
            seen = f"{', '.join(missed)} cannot be saved, so a run could not be resumed exactly"
            raise ConformanceError(f"{rig.name}: {seen}; {STATE_ADVICE}")
        with called(f"putting the state of {rig.name} into another instance", STATE_ADVICE):
            reached = other.env.replay(_written_and_read(rig.env.replay_state()))
        if not reached:
            seen = "the same seed and actions do not bring the environment inside back to where it was"
            advice = "reset it with the seed given, and step it with the same actions"
            raise ConformanceError(f"{rig.name}: {seen}; {advice}")
        if differing := difference(_go_on(rig, actions[_STEPS:]), _go_on(other, actions[_STEPS:])):
            seen = f"with its state put into another instance it goes on otherwise: {differing}"
            raise ConformanceError(f"{rig.name}: {seen}; {STATE_ADVICE}")


def _go_on(rig: Rig, actions: list[Any]) -> list[Step]:
    """Take steps in the whole environment, which seeds its resets."""
    steps = []
    for action in actions:
        steps.append(Step(*copy.deepcopy(rig.env.step(action)[:4])))
        if steps[-1].ended:
            rig.env.reset()
    return steps


def _written_and_read(place: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        archive.write(Path(folder) / "place", place)
        read: dict[str, Any] = archive.read(Path(folder) / "place")
        return read


def _renders(config: ResolvedConfig) -> None:
    with rigged(config) as rig:
        modes = rig.inside.metadata.get("render_modes") or ()
    mode = "rgb_array" if "rgb_array" in modes else None
    with rigged(config, mode) as rig:
        rig.play(rig.actions(1), seed=SEED)
        if rig.wrapper.render_mode != mode:
            seen = f"{rig.name}.render_mode is {rig.wrapper.render_mode!r} where it is {mode!r} inside"
            raise ConformanceError(f"{seen}; videos depend on it: leave the attribute to gymnasium.Wrapper")
        if mode is not None:
            _check_frame(rig)
        with called(f"{rig.name}.close()", "closing gives back what was taken, and raises nothing"):
            rig.wrapper.close()
        if not rig.inside.closed:
            raise ConformanceError(f"{rig.name}.close did not close the environment inside; call super().close()")


def _check_frame(rig: Rig) -> None:
    expected = "with render_mode 'rgb_array' it returns a frame, an array of shape (height, width, 3)"
    advice = "return self.env.render(), or leave render out"
    with called(f"{rig.name}.render()", f"{expected}: {advice}"):
        frame: Any = rig.wrapper.render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3:
        shape = f"an array of shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ConformanceError(f"{rig.name}.render returned {shape}; {expected}: {advice}")
