"""SB3 vec envs of the toolkit: all environments in this process, or each in a subprocess."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from toolkit.config.imports import dump_with_files, load_with_files
from toolkit.envs.observations import ObservationFormat
from toolkit.envs.parameters import Values
from toolkit.envs.replayable import ReplayableEpisodes
from toolkit.snapshots.rng import seed_global_generators
from toolkit.utils import processes
from toolkit.utils.attributes import suggest_base_wrappers
from toolkit.utils.errors import FaultyEnvironmentError, LostEnvironmentError, ToolkitError, describe_error
from toolkit.utils.log import configure_logging

_IMMUTABLE = (int, float, str, np.generic, type(None))
_START_TIMEOUT = 60.0  # seconds
_CLOSE_TIMEOUT = 5.0  # seconds
EnvFactory = Callable[[], gym.Env[Any, Any]]


class InProcessVecEnv(DummyVecEnv):
    """SB3's ``DummyVecEnv`` whose arrays nobody else has: an environment may change its own in place.

    Of ``info`` only mutable values are copied. With many environments, SB3's deep copies take as much time as the
    wrappers.
    """

    def __init__(self, factories: Sequence[EnvFactory]) -> None:
        built: list[gym.Env[Any, Any]] = []

        def build(factory: EnvFactory) -> gym.Env[Any, Any]:
            built.append(factory())
            return built[-1]

        try:
            super().__init__([partial(build, factory) for factory in factories])
        except BaseException:
            for env in built:
                env.close()
            raise
        # the first environment has the same object: it must not share the algorithm's random generator
        self.action_space = deepcopy(self.action_space)
        self._format = ObservationFormat(self.observation_space)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep a copy of the actions: an environment may change its own."""
        self.actions = np.array(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Step the environments one after another."""
        infos: list[dict[str, Any]] = []
        for index, (env, action) in enumerate(zip(self.envs, self.actions, strict=True)):
            observation, self.buf_rews[index], terminated, truncated, info = env.step(action)
            info = _copy_values(info) if info else {}
            info["TimeLimit.truncated"] = truncated and not terminated
            self.buf_dones[index] = terminated or truncated
            if terminated or truncated:
                info["terminal_observation"] = self._format.copy(observation)
                observation, reset_info = env.reset()
                self.reset_infos[index] = _copy_values(reset_info)
            self._save_obs(index, observation)
            infos.append(info)
        return self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy(), infos

    def reset(self) -> VecEnvObs:
        """Reset the environments one after another."""
        observations = super().reset()
        self.reset_infos = [_copy_values(info) for info in self.reset_infos]
        return observations

    def _obs_from_buf(self) -> VecEnvObs:
        return dict_to_obs(self.observation_space, {key: array.copy() for key, array in self.buf_obs.items()})

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of environments, which remember what it changes."""
        return [_call_method(env, (method_name, args, kwargs)) for env in self._get_target_envs(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of environments, which remember it."""
        for env in self._get_target_envs(indices):
            _set_attribute(env, (attr_name, value))

    def plan_parameters(self, values: Values) -> None:
        """Set the values that parameters have in the episodes that start next."""
        for env in self.envs:
            env.get_wrapper_attr("plan_parameters")(values)


class SubprocessVecEnv(SubprocVecEnv):
    """SB3's ``SubprocVecEnv`` that reports what went wrong in a subprocess, and does not wait forever.

    :param factories: build the environments
    :param step_timeout: seconds for a reset, or for a step and the reset that may follow; a replay has as much for
        each of its steps. An environment has at least a minute to start. None for no limit
    :param seed: the global generators of the process of environment ``i`` follow from it and ``i``
    :raises FaultyEnvironmentError: if a process does not start
    :raises ToolkitError: if an environment cannot be built
    """

    def __init__(self, factories: Sequence[EnvFactory], step_timeout: float | None, seed: int) -> None:
        self.waiting = False
        self.closed = False
        self._planned: Values | None = None
        self._factories, self._step_timeout, self._seed = factories, step_timeout, seed
        self.processes: list[BaseProcess] = []
        self.remotes: list[_RemoteEnv] = []
        self._kill_all = weakref.finalize(self, _kill, self.processes)  # called when Python ends, at the latest
        try:
            for index in range(len(factories)):
                self.remotes.append(self._start(index))
            spaces = [remote.recv() for remote in self.remotes]
            VecEnv.__init__(self, len(factories), *spaces[0])
            self._format = ObservationFormat(self.observation_space)
        except BaseException:
            self.close()
            raise

    def restart(self, index: int) -> None:
        """Build an environment anew in a new process, after its process was lost.

        :raises FaultyEnvironmentError: if the process does not start
        :raises ToolkitError: if the environment cannot be built
        """
        self.remotes[index].end(time.monotonic())
        self.remotes[index] = self._start(index)
        self.remotes[index].recv()  # its spaces

    def _start(self, index: int) -> _RemoteEnv:
        factory = self._factories[index]
        context = processes.start_context(["__main__", factory.__module__])
        connection, remote_connection = context.Pipe()
        try:
            arguments = (remote_connection, dump_with_files(factory), self._seed, index)
            process = context.Process(target=_run_worker, args=arguments, daemon=True)  # type: ignore[attr-defined]
            with processes.block_signals("SIGINT"):  # it would print a traceback in the subprocess
                process.start()
        except (EOFError, OSError) as error:
            hint = "put the code of a script that trains under `if __name__ == '__main__':`"
            raise FaultyEnvironmentError("the subprocesses of the environments did not start", hint) from error
        finally:
            remote_connection.close()
        self.processes.append(process)
        return _RemoteEnv(index, connection, process, self._step_timeout)

    def plan_parameters(self, values: Values) -> None:
        """Set the values that parameters have in the episodes that start next; sent with the next step or reset."""
        self._planned = values

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send every environment its action, and the values of parameters that are planned."""
        if self._planned is None:
            super().step_async(actions)
            return
        for remote, action in zip(self.remotes, actions, strict=True):
            remote.send(("planned_step", (self._planned, action)))
        self.waiting, self._planned = True, None

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for every environment's step.

        :raises FaultyEnvironmentError: if one raised, died, or takes too long
        """
        results = [remote.recv() for remote in self.remotes]
        self.waiting = False
        observations, rewards, dones, infos, reset_infos = zip(*results, strict=True)
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = self._format.copy(infos[index]["terminal_observation"])
            self.reset_infos[index] = reset_infos[index]
        return self._format.stack(observations), np.array(rewards, np.float32), np.array(dones), [*infos]

    def reset(self) -> VecEnvObs:
        """Reset every environment.

        :raises FaultyEnvironmentError: if one raised, died, or takes too long
        """
        if self._planned is not None:
            self.env_method("plan_parameters", self._planned)
            self._planned = None
        for remote, seed, options in zip(self.remotes, self._seeds, self._options, strict=True):
            remote.send(("reset", (seed, options)))
        observations, infos = zip(*[remote.recv() for remote in self.remotes], strict=True)
        self.reset_infos = [*infos]
        self._reset_seeds()  # both count for one reset
        self._reset_options()
        return self._format.stack(observations)

    def close(self) -> None:
        """End the processes; kill one that does not end by itself."""
        if self.closed:
            return
        self.closed = True
        is_busy = any(remote.pending is not None for remote in self.remotes)
        for remote in self.remotes:
            with suppress(FaultyEnvironmentError):  # it has ended already
                remote.send(("close", None))
        deadline = time.monotonic() + (_CLOSE_TIMEOUT / 5 if is_busy else _CLOSE_TIMEOUT)
        for remote in self.remotes:
            remote.end(deadline)
        self._kill_all()


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()


class _RemoteEnv:
    """The parent's side of an environment in a subprocess; for SB3 it is the connection to it.

    :ivar pending: the activity that the environment has not answered yet
    """

    def __init__(self, index: int, connection: Connection, process: BaseProcess, step_timeout: float | None) -> None:
        self._index = index
        self._connection = connection
        self._process = process
        self._step_timeout = step_timeout
        self.pending: str | None = None
        self._expect("start", None if step_timeout is None else max(step_timeout, _START_TIMEOUT))

    def send(self, command: tuple[str, Any]) -> None:
        """Send a command: its name and its data."""
        if self.pending is not None and command[0] != "close":  # an interrupt came during the wait for its answer
            if not self._connection.poll(_CLOSE_TIMEOUT):
                self._process.kill()
                raise LostEnvironmentError(f"environment {self._index} did not {self.pending}")
            self._connection.recv()
        activity, n_steps = _activity(*command)
        self._expect(activity, self._step_timeout * n_steps if self._step_timeout and n_steps else None)
        try:
            self._connection.send(command)
        except OSError as error:
            raise self._death() from error

    def recv(self) -> Any:
        """Return the answer to the last command.

        :raises FaultyEnvironmentError: if the environment raised, died, or takes too long
        :raises ToolkitError: if the toolkit raised one in the subprocess
        """
        if self._deadline is not None and not self._connection.poll(max(0.0, self._deadline - time.monotonic())):
            self._process.kill()
            message = f"environment {self._index} did not {self.pending} within {self._limit:g} s"
            raise LostEnvironmentError(message, "increase env.step_timeout if it needs longer")
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        self.pending = None
        if isinstance(answer, _RemoteError):
            answer.throw(self._index)
        return answer

    def end(self, deadline: float) -> None:
        """Wait until the process closes its end of the connection; kill it after the deadline.

        A signal to all processes may have ended the fork server, so the process itself cannot be waited for.
        """
        with suppress(EOFError, OSError):
            while self._connection.poll(max(0.0, deadline - time.monotonic())):
                self._connection.recv_bytes()  # an answer that nobody needs any more
            self._process.kill()
            if self._process.pid is not None and hasattr(signal, "SIGKILL"):
                os.kill(self._process.pid, signal.SIGKILL)
        self._connection.close()
        self._process.join(timeout=1)

    def _expect(self, activity: str, limit: float | None) -> None:
        self.pending, self._limit = activity, limit
        self._deadline = None if limit is None else time.monotonic() + limit

    def _death(self) -> LostEnvironmentError:
        self._process.join(timeout=_CLOSE_TIMEOUT)
        code = self._process.exitcode
        if code is None:
            return LostEnvironmentError(f"the process of environment {self._index} no longer answers")
        return LostEnvironmentError(f"the process of environment {self._index} {processes.describe_exit(code)}")


def _activity(command: str, data: Any) -> tuple[str, int]:
    """Return the verb for a command, and how many steps and resets it takes; 0 if it is something else."""
    if command == "env_method" and data[0] == "replay":
        (state,) = data[1]
        return "replay its episode", 1 + len(state["actions"]) + len(state["resets"])
    command = command.removeprefix("planned_")
    return command, 1 if command in ("step", "reset") else 0


class _RemoteError(NamedTuple):
    """An exception from the subprocess of an environment.

    :param error: the exception itself, if the toolkit raised it
    :param description: the exception in one line
    :param hint: what to do about it, if that is known
    """

    error: ToolkitError | None
    description: str
    traceback: str
    hint: str = ""

    @classmethod
    def from_exception(cls, error: BaseException) -> _RemoteError:
        text = "".join(traceback.format_exception(error))
        own_error = error if isinstance(error, ToolkitError) else None
        return cls(own_error, describe_error(error), text, suggest_base_wrappers(error))

    def throw(self, index: int) -> None:
        error = self.error
        if isinstance(error, FaultyEnvironmentError):
            error = FaultyEnvironmentError(f"environment {index}: {error.message}", error.hint)
        elif error is None:
            error = FaultyEnvironmentError(f"environment {index} failed in its process: {self.description}", self.hint)
        error.add_note(f"In the process of environment {index}:\n{self.traceback}")
        raise error


def _run_worker(connection: Connection, pickled_factory: bytes, seed: int, index: int) -> None:
    """Run an environment in this subprocess: answer commands until ``close``, or until the parent is gone."""
    _leave_signals_to_parent()
    seed_global_generators(seed, index)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_logging()
    try:
        with warnings.catch_warnings():
            if index:
                warnings.simplefilter("ignore")  # the first environment, built in the same way, shows them
            env: gym.Env[Any, Any] = load_with_files(pickled_factory)()
    except (Exception, SystemExit) as error:
        with suppress(OSError):  # the parent is gone
            connection.send(_RemoteError.from_exception(error))
        return
    with suppress(EOFError, OSError):
        connection.send((env.observation_space, env.action_space))
        while (command := connection.recv())[0] != "close":
            _answer(connection, env, command)
    try:
        env.close()
    except Exception as error:
        logging.getLogger("toolkit").warning("an environment does not close: %s", describe_error(error))
    if sys.stdout:
        with suppress(OSError):
            sys.stdout.flush()  # the parent kills this process when its connection closes


def _answer(connection: Connection, env: gym.Env[Any, Any], command: tuple[str, Any]) -> None:
    try:
        answer = _HANDLERS[command[0]](env, command[1])
    except (Exception, SystemExit) as error:
        answer = _RemoteError.from_exception(error)
    try:
        connection.send(answer)
    except OSError:
        raise
    except Exception as error:  # something in it cannot be pickled, for example in info
        connection.send(_RemoteError.from_exception(error))


def _step(env: gym.Env[Any, Any], action: Any) -> tuple[Any, float, bool, dict[str, Any], dict[str, Any]]:
    """Step an environment, and reset it if its episode has ended.

    :return: observation, reward, whether the episode has ended, info, and the info of the reset. The environment has
        the observation's arrays, but nothing else of it
    """
    observation, reward, terminated, truncated, info = env.step(action)
    info = _copy_values(info)
    info["TimeLimit.truncated"] = truncated and not terminated
    if not (terminated or truncated):
        return observation, float(reward), False, info, {}
    info["terminal_observation"] = deepcopy(observation)  # the reset may write the next one into its arrays
    observation, reset_info = env.reset()
    return observation, float(reward), True, info, _copy_values(reset_info)


def _step_as_planned(env: gym.Env[Any, Any], data: tuple[Values, Any]) -> Any:
    """Step an environment, with values of parameters for the episode that may start."""
    values, action = data
    _call_method(env, ("plan_parameters", (values,), {}))
    return _step(env, action)


def _copy_values(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, _IMMUTABLE) else deepcopy(value) for key, value in info.items()}


def _call_method(env: gym.Env[Any, Any], call: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Any:
    name, arguments, keyword_arguments = call
    if isinstance(env, ReplayableEpisodes):
        return env.call_method(name, *arguments, **keyword_arguments)
    return env.get_wrapper_attr(name)(*arguments, **keyword_arguments)


def _set_attribute(env: gym.Env[Any, Any], attribute: tuple[str, Any]) -> None:
    if isinstance(env, ReplayableEpisodes):
        env.set_own_attribute(*attribute)
    else:
        setattr(env, *attribute)


_HANDLERS: dict[str, Callable[[gym.Env[Any, Any], Any], Any]] = {
    "step": _step,
    "planned_step": _step_as_planned,
    "reset": lambda env, data: env.reset(seed=data[0], **({"options": data[1]} if data[1] else {})),
    "render": lambda env, _: env.render(),
    "env_method": _call_method,
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "has_attr": lambda env, name: env.has_wrapper_attr(name),
    "set_attr": _set_attribute,
    "is_wrapped": is_wrapped,
}


def _leave_signals_to_parent() -> None:
    """Survive signals to all processes of a terminal or a job: the parent saves training before this one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # a function: unlike SIG_IGN, programs that an environment starts do not inherit it
            signal.signal(getattr(signal, name), lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        # a launcher may have blocked them in the fork server that started this process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _end_with_parent() -> None:
    """End this process some seconds after its parent, even if the environment hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(_CLOSE_TIMEOUT)
        signal.raise_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGABRT)
