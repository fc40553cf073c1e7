"""One environment whose episodes have raw returns and their own seeds, and can be replayed in a copy."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers import (
    HumanRendering,
    NormalizeObservation,
    NormalizeReward,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordVideo,
    RenderCollection,
    TimeLimit,
)
from stable_baselines3.common.monitor import Monitor

from toolkit.envs.carried_state import CarriedState
from toolkit.envs.episode_numbers import REWARD_SUMS
from toolkit.envs.episode_trace import Difference, EpisodeTrace, find_reward_difference
from toolkit.envs.generator_watch import GeneratorWatch
from toolkit.envs.observations import ObservationFormat, copy_arrays
from toolkit.envs.outside_changes import OutsideChanges
from toolkit.envs.parameters import NO_PARAMETERS, ChangeableParameters, Values
from toolkit.snapshots import capture, plain_data, restore
from toolkit.snapshots.rng import (
    GeneratorStates,
    decode_generator_states,
    encode_generator_states,
    get_generator_states,
    set_generator_states,
)
from toolkit.snapshots.transfer import transfer, warn_of_missing
from toolkit.utils.data import LARGEST_RETURN
from toolkit.utils.errors import FaultyEnvironmentError, describe_error
from toolkit.utils.seeds import derive_episode_seed, derive_former_episode_seed

if TYPE_CHECKING:
    from toolkit.envs.reward_trace import RewardTrace

RAW_EPISODE = "raw_episode"
"""Key in the ``info`` of a reset: the completed episode, as SB3 has it in ``info["episode"]``."""
DROPPED_EPISODE = "dropped_episode"
"""Key in the ``info`` of a reset that follows an episode that could not be replayed: it counts nowhere."""

_UNPACKING = (TimeLimit, OrderEnforcing, HumanRendering, RenderCollection)  # added by gym.make
_LEARNING = (NormalizeObservation, NormalizeReward)
_WITHOUT_MEMORY = (TimeLimit, OrderEnforcing, PassiveEnvChecker)  # they carry nothing from episode to episode
_FOR_RENDERING = (HumanRendering, RenderCollection)  # not in every copy of an environment
_NOT_FOR_ACTING = (OrderEnforcing, PassiveEnvChecker, RecordVideo)  # their state does not matter to an agent
_WITHOUT_STATE = (OrderEnforcing, PassiveEnvChecker, *_FOR_RENDERING)  # they decide nothing
_NO_STATE = capture.CapturedState({"$": capture.NOTHING}, [], capture.Structure({}, {}))
_WITHOUT_EFFECT = {  # methods that only ask
    *("action_masks", "compute_reward", "compute_terminated", "compute_truncated"),
    *("get_wrapper_attr", "has_wrapper_attr", "render", "close"),
}
_NUMBERS = (float, int, np.number)
_Env = TypeVar("_Env", gym.Env[Any, Any], VectorEnv[Any, Any, Any])
_SEQUENCES = (tuple, list)  # isinstance takes this in less time than a union


class ReturnValueChecker(gym.Wrapper[Any, Any, Any, Any]):
    """Check what an environment returns before Gymnasium's wrappers and Monitor unpack it.

    :param copies: whether to return copies of observations, for wrappers that keep some, such as a frame stack: the
        environment may write the next one into the same array
    """

    def __init__(self, env: gym.Env[Any, Any], copies: bool) -> None:
        super().__init__(env)
        self._copies = copies

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment.

        :raises FaultyEnvironmentError: if it does not return an observation and a dict
        """
        result: Any = self.env.reset(**kwargs)
        if not isinstance(result, tuple | list) or len(result) != 2 or not isinstance(result[1], dict | None):
            raise _faulty("reset", result, "an observation and a dict")
        return (copy_arrays(result[0]), result[1]) if self._copies else result  # type: ignore[return-value]

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment.

        :raises FaultyEnvironmentError: if it does not return the five values of a step
        """
        result: Any = self.env.step(action)
        try:
            observation, reward, terminated, truncated, info = result
        except (TypeError, ValueError):
            info = None
        else:
            _check_reward(reward)
        if not isinstance(info, dict) or not isinstance(result, _SEQUENCES):
            raise _faulty("step", result, "observation, reward, terminated, truncated and info")
        return copy_arrays(observation) if self._copies else observation, reward, terminated, truncated, info


class TransparentLayer(gym.Wrapper[Any, Any, Any, Any]):
    """Passes on attributes of the layer inside, as if it were not there: a base wrapper may ask for them.

    No snapshot saves it.
    """

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer inside."""
        if name == "env":  # not set yet
            raise AttributeError(name)
        return getattr(self.env, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Set an attribute of the layer that has it, which is never this one."""
        return self.env.set_wrapper_attr(name, value, force=force)


class RewardGuard(TransparentLayer):
    """Remember the last step, and check its reward.

    :param check: called with the guard after each step; raises if the reward is wrong
    :ivar reward: of the last step
    """

    def __init__(self, env: gym.Env[Any, Any], check: Callable[[RewardGuard], None] | None = None) -> None:
        super().__init__(env)
        self._check = check
        self.observation: Any = None
        self.reward = 0.0
        self.info: dict[str, Any] = {}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment."""
        result = self.env.step(action)
        self.observation, self.reward, self.info = result[0], float(result[1]), result[4]
        if self._check:
            self._check(self)
        return result


def _check_reward(reward: Any) -> None:
    """Check that a reward is one number.

    :raises FaultyEnvironmentError: if it is not, as in an environment with several objectives
    """
    if isinstance(reward, _NUMBERS):
        return
    try:
        float(reward)
    except (TypeError, ValueError):
        shape = f" of shape {np.shape(reward)}" if np.shape(reward) else ""
        message = f"the environment returns a reward that is not one number: {type(reward).__name__}{shape}"
        hint = "return a float; weigh several objectives in a wrapper, and name it under env.base_wrappers"
        raise FaultyEnvironmentError(message, hint) from None


def _faulty(method: str, result: Any, expected: str) -> FaultyEnvironmentError:
    types = ", ".join(type(value).__name__ for value in result) if isinstance(result, tuple | list) else ""
    returned = f"({types})" if types else type(result).__name__
    message = f"the environment's {method} does not return {expected}: it returns {returned}"
    return FaultyEnvironmentError(message, "correct it, or its wrappers")


def check_return_values(env: gym.Env[Any, Any], copies: bool) -> gym.Env[Any, Any]:
    """Put a :class:`ReturnValueChecker` around an environment, inside the wrappers that ``gym.make`` has added.

    Gymnasium's own checker stays inside: it warns of the environment's signatures, and unpacks nothing.

    :param copies: whether it returns copies of observations
    """
    outer: gym.Wrapper[Any, Any, Any, Any] | None = None
    layer = env
    while isinstance(layer, _UNPACKING):
        outer, layer = layer, layer.env
    checker = ReturnValueChecker(layer, copies)
    if outer is None:
        return checker
    outer.env = checker
    return env


class RawMonitor(Monitor):
    """SB3's Monitor, which keeps every completed episode until :meth:`pop_episode`, also one that a reset cuts short.

    It rounds no return: ten rewards of 0.1 are 1. What wrappers outside change in ``info`` does not matter to it.

    :param read_info: returns what else belongs to an episode, from the ``info`` of its last step
    :param trace: sums up the rewards that leave the wrappers outside, which an episode then has under
        :data:`REWARD_SUMS`
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        read_info: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
        trace: RewardTrace | None = None,
    ) -> None:
        super().__init__(env)
        self._read_info = read_info
        self._trace = trace
        self.n_resets = 0
        self.observation: Any = None
        self._completed: list[dict[str, Any]] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and keep an episode that this cuts short."""
        if self.rewards and not self.needs_reset:
            seconds = round(time.time() - self.t_start, 6)
            self._completed.append({"r": _sum_rewards(self.rewards), "l": len(self.rewards), "t": seconds})
        if self._trace is not None:
            self._trace.end_episode()
        self.n_resets += 1
        self.observation, info = super().reset(**kwargs)
        return self.observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and keep an episode that has ended."""
        step = super().step(action)
        self.observation = step[0]
        if self.needs_reset:
            step[-1]["episode"]["r"] = _sum_rewards(self.rewards)
            if self._read_info is not None:
                step[-1]["episode"] |= self._read_info(step[-1])
            self._completed.append(step[-1]["episode"].copy())
        return step

    def drop_episode(self) -> None:
        """Forget the running episode; the next call must be a reset."""
        self.needs_reset = True
        self._completed = []
        if self._trace is not None:
            self._trace.drop()

    def pop_episode(self) -> dict[str, Any] | None:
        """Return what was completed since the last call, as SB3 writes it in ``info["episode"]``; None if nothing was.

        Games whose ends a wrapper hid are part of the episode that ends with the last of them.
        """
        completed, self._completed = self._completed, []
        if not completed:
            return None
        totals = {key: sum(episode[key] for episode in completed) for key in ("r", "l")}
        if self._trace is not None:
            totals[REWARD_SUMS] = self._trace.pop()
        return completed[-1] | totals


def _sum_rewards(rewards: list[float]) -> float:
    """Return the sum of the environment's own rewards, exact up to its last digit.

    :raises FaultyEnvironmentError: if it is no number that statistics of returns can take
    """
    total = math.nan
    with suppress(OverflowError, ValueError):  # of infinite rewards, or of their sum
        total = math.fsum(rewards)
    return check_return(total)


def check_return(total: float) -> float:
    """Return the sum of an episode's raw rewards.

    :raises FaultyEnvironmentError: if it is no number that statistics of returns can take
    """
    if abs(total) <= LARGEST_RETURN:  # false for nan, too
        return total
    message = f"the environment returns rewards whose sum over an episode is not finite, or beyond {LARGEST_RETURN:g}"
    raise FaultyEnvironmentError(message, "correct them in the environment: wrappers do not change its raw return")


class _LastStep(NamedTuple):
    """What the last step of an episode returned; reward 0 if there was none."""

    observation: Any
    reward: float


class _ReplayError(Exception):
    """An episode that cannot be played again to its end."""


class ReplayableEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Seed every reset, and remember the actions since the environment itself was last reset.

    A copy of the environment, also in another process, then reaches the same state: by a reset with the same seed and
    the same actions. Saved and restored beside it is what wrappers and the environment carry from one episode to the
    next, and what calls from outside change meanwhile.

    A reset's ``info`` has the completed episode under :data:`RAW_EPISODE`. This layer is outside all wrappers, and
    asks the monitor inside them.

    :param env: the environment with all its wrappers
    :param monitor: the :class:`RawMonitor` among them; what resets it resets the environment itself
    :param is_alone: whether nothing else in this process draws from the global generators
    :param reset_options: passed to every reset without options of its own
    :param constants: objects in wrappers that are no state, because every process makes them itself
    :param parameters: what may change between episodes
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        monitor: RawMonitor,
        *,
        is_alone: bool = False,
        reset_options: Mapping[str, Any] | None = None,
        constants: Sequence[Any] = (),
        parameters: ChangeableParameters = NO_PARAMETERS,
    ) -> None:
        super().__init__(env)
        self._constants = constants
        self._parameters = parameters
        self._next_values: Values = {}
        self._values: list[Values] = []  # in each reset since the environment itself was last reset
        self._monitor = monitor
        self._reset_options = dict(reset_options or {}) or None
        self._seed = 0
        self._episode = -1
        self._first_episode = self._first_seed = 0
        self._actions: list[Any] = []
        self._inner_resets: list[int] = []  # number of actions before each reset that did not reach the environment
        self._trace = EpisodeTrace(None)
        self._observation: Any = None
        self._start: list[capture.Structure] | None = None  # the wrappers' live objects after the first reset
        self._taken_over: list[dict[str, Any] | None] | None = None  # until the next reset
        self._missing: list[str] = []  # what it describes and the wrappers have not made yet
        self._initial_states = self._states_before = plain_data.copy_data(self.wrapper_states())
        self._has_memory = not all(type(layer) in _WITHOUT_MEMORY for layer in self._layers())
        self._format = ObservationFormat(env.observation_space)
        self._carried = CarriedState(env.unwrapped)
        self._carried_before = self._carried.read()
        self._is_alone = is_alone
        self._generators_before: GeneratorStates | None = None
        self._watch: GeneratorWatch | None = None
        self._dropped: _LastStep | None = None  # of an episode that could not be replayed, until the next step
        self._reset_result: tuple[Any, dict[str, Any]] = (None, {})
        own_attributes = {*vars(self), "_outside_changes"}
        self._outside_changes = OutsideChanges([self, *self._layers(), env.unwrapped], own_attributes)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset with the next episode's seed, which follows from the last seed given and the number of the episode."""
        if self._dropped is not None and seed is None:
            self._dropped = None
            return self._reset_result
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._episode += 1
        self._reset_result = self._reset(self._episode_seed, options)
        return self._reset_result

    def _reset(self, seed: int, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        n_resets = self._monitor.n_resets
        states_before = plain_data.copy_data(self.wrapper_states()) if self._has_memory else self._initial_states
        carried_before = self._carried.read()
        generators_before = get_generator_states() if self._is_alone else None
        with self._watched():
            observation, info = self._reset_env(seed, options)
        if self._monitor.n_resets > n_resets:
            self._first_episode, self._first_seed = self._episode, seed
            self._actions, self._inner_resets, self._states_before = [], [], states_before
            self._carried_before, self._generators_before = carried_before, generators_before
            self._outside_changes.clear()
            self._values = []
            self._trace = EpisodeTrace(observation)
        else:  # for example, a lost life ended the episode, and the game continues
            self._inner_resets.append(len(self._actions))
            self._trace.add_reset(observation)
        self._values.append(self._next_values)
        if self._start is None:
            self._start = [captured.structure for _, captured in self._capture_layers()]
            self._carried.note_first_reset()
        self._observation = observation
        self._format.check(observation)
        return observation, {**(info or {}), RAW_EPISODE: self._monitor.pop_episode()}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and remember the action and what came of it.

        An episode that could not be replayed ends here instead, as by a time limit, with its last step once more.
        """
        if self._dropped is not None:
            return *self._dropped, False, True, {}
        self._actions.append(action.copy() if isinstance(action, np.ndarray) else action)
        if self._watch is None:
            observation, reward, terminated, truncated, info = self.env.step(action)
        else:
            with self._watched():
                observation, reward, terminated, truncated, info = self.env.step(action)
        self._trace.add_step(observation, reward, terminated, truncated)
        self._observation = observation
        self._format.check(observation)
        return observation, reward, terminated, truncated, info

    def _reset_env(self, seed: int, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the first time, complete what :meth:`take_over` began."""
        states, self._taken_over = self._taken_over, None
        options = deepcopy(self._reset_options) if options is None else options
        n_resets = self._monitor.n_resets
        result: tuple[Any, dict[str, Any]] | None = None
        self._set_parameters()
        try:
            result = self.env.reset(seed=seed, options=options)
        except Exception:
            if states is None:
                raise
        is_reached = self._monitor.n_resets > n_resets
        if result is not None and (states is None or (is_reached and not self._missing)):
            return result
        # a wrapper in the middle of a training episode does not pass the reset on, or its objects are made only now
        for name in self._transfer(states or [], "state" if is_reached else "before"):
            warn_of_missing(name)
        self._set_parameters()
        return self.env.reset(seed=seed, options=options)

    def plan_parameters(self, values: Values) -> None:
        """Set the values that parameters have from the next reset on.

        :param values: by dotted path in the config
        """
        self._next_values = values

    def find_parameter_problem(self, path: str) -> tuple[str, str]:
        """Return why a parameter cannot change between episodes, and what to do; empty texts if it can."""
        return self._parameters.find_problem(path)

    def _set_parameters(self) -> None:
        if self._next_values:
            self._parameters.set(self._next_values)

    @property
    def _episode_seed(self) -> int:
        return derive_episode_seed(self._seed, self._episode) if self._episode else self._seed

    @property
    def is_starting_anew(self) -> bool:
        """Whether the next step ends an episode that could not be replayed; the environment is not stepped."""
        return self._dropped is not None

    def watch_generators(self) -> None:
        """Warn if the first resets and steps draw from global generators that the algorithm shares."""
        if not self._is_alone:
            self._watch = GeneratorWatch(_name_env(self.unwrapped))

    def _watched(self) -> AbstractContextManager[None]:
        if self._watch is not None and self._watch.is_over:
            self._watch = None
        return nullcontext() if self._watch is None else self._watch.watch()

    def call_method(self, name: str, *arguments: Any, **keyword_arguments: Any) -> Any:
        """Call a method of the environment or a wrapper, and remember what it changes."""
        method = self.get_wrapper_attr(name)
        if name in _WITHOUT_EFFECT or name in vars(ReplayableEpisodes):
            return method(*arguments, **keyword_arguments)
        return self._outside_changes.call(len(self._actions), name, lambda: method(*arguments, **keyword_arguments))

    def set_own_attribute(self, name: str, value: Any) -> None:
        """Set an attribute of this outermost layer, as SB3's ``set_attr`` does, and remember what changes."""
        self._outside_changes.call(len(self._actions), name, lambda: setattr(self, name, value))

    def replay_state(self) -> dict[str, Any]:
        """Return, as plain data, what :meth:`replay` needs to reach the environment's present state."""
        generators = [self._generators_before or get_generator_states(), get_generator_states()]
        return {
            "seed": self._seed,
            "episode": self._first_episode,
            "episode_seed": self._first_seed,
            "actions": np.array(self._actions),
            "resets": list(self._inner_resets),
            "observation": _try_to_capture(self._monitor.observation),
            "last": self._capture_last_step(),
            "is_dropped": self._dropped is not None,
            "trace": self._trace.to_data(),
            "raw_rewards": np.array(self._monitor.rewards, np.float64),
            "changes": self._outside_changes.to_data(),
            "parameters": list(self._values),
            "carried": [self._carried.find_changes(state) for state in (self._carried_before, self._carried.read())],
            "own": self._outside_changes.read_own(),
            "changed": self._outside_changes.read_changed(),
            "generators": [encode_generator_states(states) for states in generators] if self._is_alone else None,
            "before": self._states_before,
            "wrappers": self.wrapper_states(),
            "classes": [type(layer).__name__ for layer in self._layers()],
        }

    def replay(self, state: dict[str, Any]) -> str:
        """Play the episode of a :meth:`replay_state` again.

        If that is impossible, a new episode starts. The next step then ends the old one as a time limit does.

        :return: what differs, for the user; empty if nothing does
        :raises ValueError: if the state is not that of such an environment; also another of
            :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
        """
        try:
            self._play_again(state)
        except _ReplayError as error:
            self.drop_episode(state)
            return f"cannot repeat its episode ({error}): a new episode starts"
        difference = self._find_difference(state)
        self._restore_present(state)
        if state.get("is_dropped"):  # it had begun and was not stepped yet
            self._set_dropped(state)
        if difference is None:
            return ""
        step, description = difference
        return f"repeats its episode only up to step {step} ({description}): it continues differently"

    def drop_episode(self, state: dict[str, Any]) -> None:
        """Start a new episode instead of the one of a :meth:`replay_state`.

        :raises FaultyEnvironmentError: if the environment cannot be reset
        """
        if self._start is None:
            self.reset(seed=state["seed"])
        error: BaseException | None = None
        for wrapper_states in (state["wrappers"], state["before"], self._initial_states):
            self._restore_present(state)
            self._restore_before_episode(wrapper_states)
            self._seed, self._episode = state["seed"], state["episode"] + len(state["resets"])
            self._next_values = [{}, *state.get("parameters", [])][-1]
            self._dropped, n_resets = None, self._monitor.n_resets
            self._monitor.drop_episode()
            try:
                self.reset()
            except (Exception, SystemExit) as raised:
                error = raised
            else:
                if self._monitor.n_resets > n_resets:
                    return self._set_dropped(state)
        reason = describe_error(error) if error else "a wrapper keeps the reset from it"
        raise FaultyEnvironmentError(f"the environment cannot start a new episode: {reason}") from error

    def _set_dropped(self, state: dict[str, Any]) -> None:
        observation, info = self._reset_result
        self._reset_result = observation, {**info, RAW_EPISODE: None, DROPPED_EPISODE: True}
        last_observation, last_reward = state.get("last", (None, 0.0))  # version 0.1.0 saved none
        if last_observation is not None:
            observation = restore.restore_value(last_observation)
        self._dropped = _LastStep(observation, last_reward)

    def _capture_last_step(self) -> list[Any]:
        """Return the last observation, None if it cannot be written, and the last reward."""
        observation, reward = self._dropped or (self._observation, self._trace.last_reward)
        return [_try_to_capture(observation), float(reward)]

    def _play_again(self, state: dict[str, Any]) -> None:
        """Begin an episode again, and repeat its actions, and what happened between them.

        :raises _ReplayError: if the environment raises, or the episode ends elsewhere
        """
        n_resets, changes = Counter(state["resets"]), state.get("changes", [])
        values = iter(state.get("parameters", [])[1:])
        self._begin_again(state)
        for number, action in enumerate([None, *state["actions"]]):
            if number:
                _, _, *ends, _ = self._repeat(self.step, action, where=f"at step {number}")
                if any(ends) != (n_resets[number] > 0):
                    raise _ReplayError(f"it {'ends' if any(ends) else 'does not end'} at step {number}")
            for _ in range(n_resets[number]):
                self._next_values = next(values, {})
                self._repeat(self.reset, where=f"in the reset after step {number}")
            self._outside_changes.apply(changes, number)
        if len(self._actions) != len(state["actions"]):
            raise _ReplayError("a reset within it starts another one")

    def _begin_again(self, state: dict[str, Any]) -> None:
        """Reset the environment itself with the seed of its episode, as it was before."""
        seed, episode = state["seed"], state["episode"]
        first_seed = state.get("episode_seed")
        if first_seed is None:  # version 0.1.0 saved none, and derived larger ones
            first_seed = derive_former_episode_seed(seed, episode) if episode else seed
        for wrapper_states in (state["before"], self._initial_states):
            self._restore_generators(state, 0)
            self._restore_before_episode(wrapper_states)
            self._carried.restore(state.get("carried", [{}])[0])
            self._seed, self._episode, self._dropped = seed, episode, None
            self._next_values = next(iter(state.get("parameters", [])), {})
            n_resets = self._monitor.n_resets
            self._reset_result = self._repeat(self._reset, first_seed, where="in the reset")
            if self._monitor.n_resets > n_resets:
                break  # a wrapper in the middle of a game does not pass the reset on

    @staticmethod
    def _repeat(function: Callable[..., Any], *arguments: Any, where: str) -> Any:
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:
            raise _ReplayError(f"{describe_error(error)} {where}") from error

    def _find_difference(self, state: dict[str, Any]) -> Difference | None:
        """Compare the episode with that of a :meth:`replay_state`; return the first difference."""
        if "trace" in state:
            return self._trace.find_difference(state["trace"]) or find_reward_difference(
                self._monitor.rewards, state["raw_rewards"]
            )
        saved = state["observation"]  # all that version 0.1.0 saved
        if saved is None or plain_data.is_equal(_try_to_capture(self._monitor.observation), saved):
            return None
        return Difference(len(state["actions"]), "another observation")

    def _restore_present(self, state: dict[str, Any]) -> None:
        """Restore what the wrappers and the environment had when a :meth:`replay_state` was taken."""
        self.load_wrapper_states(state["wrappers"])
        self._outside_changes.set_own(state.get("own", {}))
        self._carried.restore(state.get("carried", [{}])[-1])
        self._outside_changes.set_changed(state.get("changed", [{}, {}]))
        self._restore_generators(state, 1)

    def _restore_generators(self, state: dict[str, Any], index: int) -> None:
        if self._is_alone and state.get("generators"):
            set_generator_states(decode_generator_states(state["generators"][index]))

    def _restore_before_episode(self, states: list[dict[str, Any]]) -> None:
        for layer, state in zip(self._layers(), states, strict=True):
            if state["$"] != "attributes":
                restore.restore(layer, state)
                continue
            for name, data in state["state"].items():
                with suppress(*restore.RESTORE_ERRORS):  # a reset made it, and makes it again
                    restore.restore_attributes(layer, {name: data})

    def wrapper_states(self) -> list[dict[str, Any]]:
        """Return the state of each wrapper, outermost first."""
        return [captured.state for _, captured in self._capture_layers()]

    def load_wrapper_states(self, states: list[dict[str, Any] | None]) -> None:
        """Restore the state of each wrapper; None leaves a wrapper unchanged."""
        for layer, state in zip(self._layers(), states, strict=True):
            if state is not None:
                restore.restore(layer, state)

    def learned_states(self) -> list[dict[str, Any] | None]:
        """Return the states of wrappers that learn by their class, for all that is known; None for the others.

        These are Gymnasium's running statistics, and every wrapper with a ``state_dict``.
        """
        return [
            state if self._learns(layer) else None
            for layer, state in zip(self._layers(), self.wrapper_states(), strict=True)
        ]

    def capture_for_copies(self) -> dict[str, Any]:
        """Return, as plain data, what a copy of this environment takes over with :meth:`take_over`.

        :return: ``wrappers``: for each, outermost first, its class, its state, and its state before the running
            episode; None if the agent does not depend on it. ``changed``: attributes of the environment that calls
            from outside have changed. ``unsaved``: names of what a copy cannot take over
        """
        layers = self._capture_layers()
        states = [
            None
            if isinstance(layer, _NOT_FOR_ACTING)
            else _describe_for_copies(layer, captured.state, initial, before)
            for (layer, captured), initial, before in zip(
                layers, self._initial_states, self._states_before, strict=True
            )
            if not isinstance(layer, _FOR_RENDERING)
        ]
        acting = [pair for pair in layers if not isinstance(pair[0], (*_NOT_FOR_ACTING, *_FOR_RENDERING))]
        changes = self._outside_changes
        unsaved = [f"environment {_name_env(self.unwrapped)}: {name}" for name in changes.unsaved]
        return {
            "wrappers": states,
            "changed": changes.read_changed(),
            "unsaved": [*_name_unsaved(acting), *unsaved],
        }

    def list_wrapper_names(self) -> list[str]:
        """Return the class name of each wrapper whose state :meth:`take_over` takes, outermost first."""
        return [type(layer).__name__ for layer in self._layers() if not isinstance(layer, _FOR_RENDERING)]

    def take_over(self, states: list[dict[str, Any] | None], changed: list[dict[str, Any]]) -> None:
        """Take over ``wrappers`` and ``changed`` of :meth:`capture_for_copies`; the next reset starts an episode.

        :raises ValueError: if they do not fit; also another of :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
        """
        self._outside_changes.set_changed(changed)
        self._missing = self._transfer(states, "state")
        self._taken_over = states

    def take_statistics(self, states: list[dict[str, Any] | None]) -> list[str]:
        """Take over what wrappers learned elsewhere: each wrapper that learns, from the next one of its class.

        :param states: ``wrappers`` of :meth:`capture_for_copies`
        :return: names of what does not fit
        :raises ValueError: if an own state does not fit; also another of
            :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
        """
        saved = [state for state in states if state is not None]
        misfits = []
        for layer in filter(self._learns, self._layers()):
            state = next((state for state in saved if restore.is_class_name(layer, state["class"])), None)
            if state is not None:
                saved.remove(state)
                misfits += [f"{type(layer).__name__}: {name}" for name in transfer(layer, state["state"])]
        return misfits

    def _transfer(self, states: list[dict[str, Any] | None], key: str) -> list[str]:
        """Put states into the wrappers; return the names of what the wrappers have not made yet."""
        missing = []
        layers = [layer for layer in self._layers() if not isinstance(layer, _FOR_RENDERING)]
        for layer, state in zip(layers, states, strict=True):
            if state is not None:
                restore.check_class(layer, state["class"])
                missing += [f"wrapper {type(layer).__name__}: {name}" for name in transfer(layer, state[key])]
        return missing

    @staticmethod
    def _learns(layer: gym.Env[Any, Any]) -> bool:
        return isinstance(layer, _LEARNING) or hasattr(type(layer), "state_dict")

    def list_unrestorable(self) -> list[str]:
        """Name what wrappers and the environment hold that cannot be restored.

        Objects that a wrapper makes during an episode are named as well, though a replay makes them again.
        """
        unsaved = [*self._carried.unsaved, *self._outside_changes.unsaved]
        return [
            *_name_unsaved(self._capture_layers()),
            *(f"environment {_name_env(self.unwrapped)}: {name}" for name in unsaved),
        ]

    def freeze_statistics(self) -> None:
        """Stop wrappers from learning, where they have a switch (Gymnasium's have)."""
        for layer in self._layers():
            if isinstance(layer, _LEARNING):
                layer.update_running_mean = False

    def _capture_layers(self) -> list[tuple[gym.Env[Any, Any], capture.CapturedState]]:
        layers, outside = self._layers(), [self, self._monitor, self.unwrapped, *self._constants]
        starts = itertools.repeat(None) if self._start is None else self._start
        return [
            (layer, _NO_STATE if type(layer) in _WITHOUT_STATE else capture.capture(layer, [*outside, *layers], start))
            for layer, start in zip(layers, starts, strict=False)
        ]

    def _layers(self) -> list[gym.Wrapper[Any, Any, Any, Any]]:
        wrappers = [layer for layer in iterate_layers(self.env) if isinstance(layer, gym.Wrapper)]
        return [layer for layer in wrappers if not isinstance(layer, Monitor | ReturnValueChecker | TransparentLayer)]


def iterate_layers(env: _Env) -> Iterator[_Env]:
    """Yield the wrappers of an environment or a batch, outermost first, and what is inside them."""
    yield env
    while isinstance(env, gym.Wrapper | VectorWrapper):
        env = env.env
        yield env


def _name_unsaved(layers: list[tuple[gym.Env[Any, Any], capture.CapturedState]]) -> list[str]:
    return [f"wrapper {type(layer).__name__}: {name}" for layer, captured in layers for name in captured.unsaved]


def _describe_for_copies(
    layer: gym.Env[Any, Any], state: dict[str, Any], initial: dict[str, Any], before: dict[str, Any]
) -> dict[str, Any]:
    """Describe a wrapper's present state and that before the running episode, for copies of the wrapper.

    Both leave out what the constructor sets and training keeps, if it is a flag, a text or an object: these may depend
    on a render mode. Numbers and arrays remain, because a constructor may have drawn them at random.
    """
    if isinstance(layer, _LEARNING):  # never keeps a reset from the environment
        before = state
    if state["$"] == capture.ATTRIBUTES:
        settings = {
            name
            for name, data in initial["state"].items()
            if _is_setting(data)
            and all(
                name in other["state"] and plain_data.is_equal(other["state"][name], data) for other in (state, before)
            )
        }
        state, before = (
            {**other, "state": {name: data for name, data in other["state"].items() if name not in settings}}
            for other in (state, before)
        )
    return {"class": type(layer).__name__, "state": state, "before": before}


def _is_setting(data: Any) -> bool:
    is_object = isinstance(data, dict) and data.get("$") == capture.OBJECT
    return data is None or isinstance(data, bool | str) or is_object


def _name_env(env: gym.Env[Any, Any]) -> str:
    return type(env).__name__ if env.spec is None else env.spec.id


def _try_to_capture(observation: Any) -> Any:
    """Return an observation as plain data; None if it cannot be written."""
    try:
        return capture.capture_value(observation)
    except plain_data.NotPlainError:
        return None
