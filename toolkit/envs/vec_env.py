"""Environments that step together: in this process, or each in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from toolkit.utils import processes
from toolkit.utils.errors import FaultyEnvironmentError, ToolkitError, describe

_UNCHANGING = (int, float, str, np.generic, type(None))
_SECONDS_TO_START = 60.0
_SECONDS_TO_CLOSE = 5.0
Maker = Callable[[], gym.Env[Any, Any]]


class InProcessVecEnv(DummyVecEnv):
    """SB3's environments in this process, which copy of a step's ``info`` only what an environment could change later.

    For many environments SB3's ``DummyVecEnv`` spends as much time on such copies as on their wrappers.
    """

    def __init__(self, makers: list[Maker]) -> None:
        super().__init__(makers)
        # the first environment's own is the same object: it must not draw from what the algorithm draws from
        self.action_space = deepcopy(self.action_space)

    def step_wait(self) -> VecEnvStepReturn:
        """Step the environments one after another."""
        infos: list[dict[str, Any]] = []
        for index, (env, action) in enumerate(zip(self.envs, self.actions, strict=True)):
            observation, self.buf_rews[index], terminated, truncated, info = env.step(action)
            info = {key: value if isinstance(value, _UNCHANGING) else deepcopy(value) for key, value in info.items()}
            info["TimeLimit.truncated"] = truncated and not terminated
            self.buf_dones[index] = terminated or truncated
            if terminated or truncated:
                info["terminal_observation"] = observation
                observation, self.reset_infos[index] = env.reset()
            self._save_obs(index, observation)
            infos.append(info)
        return self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy(), infos


class SubprocessVecEnv(SubprocVecEnv):
    """SB3's environments in processes of their own, which say what went wrong there, and do not wait for ever.

    :param makers: build the environments
    :param step_timeout: seconds that a step with the reset that may follow, or a reset, can take, when an episode is
        played again as well; to be built and to start, an environment has a minute at least. None for no limit
    :raises FaultyEnvironmentError: if a process does not start
    :raises ToolkitError: what building an environment raises
    """

    def __init__(self, makers: list[Maker], step_timeout: float | None) -> None:
        self.waiting = False
        self.closed = False
        self.processes: list[BaseProcess] = []
        self.remotes: list[_Remote] = []
        self._end = weakref.finalize(self, _kill, self.processes)  # at the latest when Python ends
        try:
            for index, make in enumerate(makers):
                self.remotes.append(self._start(index, make, step_timeout))
            spaces = [remote.recv() for remote in self.remotes]
            VecEnv.__init__(self, len(makers), *spaces[0])
        except BaseException:
            self.close()
            raise

    def _start(self, index: int, make: Maker, step_timeout: float | None) -> _Remote:
        context = processes.context(["__main__", make.__module__])
        here, there = context.Pipe()
        try:
            process = context.Process(target=_work, args=(there, cloudpickle.dumps(make)), daemon=True)  # type: ignore[attr-defined]
            with processes.blocked("SIGINT"):  # which would print a traceback there
                process.start()
        except (EOFError, OSError) as error:
            hint = "a script that trains needs `if __name__ == '__main__':` around what it does"
            raise FaultyEnvironmentError("the environments' processes did not start", hint) from error
        finally:
            there.close()
        self.processes.append(process)
        return _Remote(index, here, process, step_timeout)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for every environment's step.

        :raises FaultyEnvironmentError: if one raised, died, or takes too long
        """
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards, dones, [*infos]

    def close(self) -> None:
        """End the processes, by force if one does not end when it is told to."""
        if self.closed:
            return
        self.closed = True
        busy = any(remote.sent is not None for remote in self.remotes)
        for remote in self.remotes:
            with suppress(FaultyEnvironmentError):  # it has ended already
                remote.send(("close", None))
        deadline = time.monotonic() + (_SECONDS_TO_CLOSE / 5 if busy else _SECONDS_TO_CLOSE)
        for remote in self.remotes:
            remote.end(deadline)
        self._end()


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()


class _Remote:
    """An environment in its process, seen from here; SB3 takes it for the end of a pipe.

    :ivar sent: what it was told last, while it has not answered
    """

    def __init__(self, index: int, connection: Connection, process: BaseProcess, step_timeout: float | None) -> None:
        self._index = index
        self._connection = connection
        self._process = process
        self._step_timeout = step_timeout
        self.sent: str | None = None
        self._wait_for("start", None if step_timeout is None else max(step_timeout, _SECONDS_TO_START))

    def send(self, told: tuple[str, Any]) -> None:
        """Tell it to do something."""
        if self.sent is not None and told[0] != "close":  # an interrupt came while its answer was waited for
            if not self._connection.poll(_SECONDS_TO_CLOSE):
                self._process.kill()
                raise FaultyEnvironmentError(f"environment {self._index} did not {self.sent}")
            self._connection.recv()
        doing, steps = _doing(*told)
        self._wait_for(doing, self._step_timeout * steps if self._step_timeout and steps else None)
        try:
            self._connection.send(told)
        except OSError as error:
            raise self._death() from error

    def recv(self) -> Any:
        """Return what it answers.

        :raises FaultyEnvironmentError: if it raised, died, or takes too long
        :raises ToolkitError: what the toolkit raised there
        """
        if self._deadline is not None and not self._connection.poll(max(0.0, self._deadline - time.monotonic())):
            self._process.kill()
            message = f"environment {self._index} did not {self.sent} within {self._limit:g} s"
            raise FaultyEnvironmentError(message, "env.step_timeout says how long it may take")
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        self.sent = None
        if isinstance(answer, _Fault):
            answer.throw(self._index)
        return answer

    def end(self, deadline: float) -> None:
        """Wait until its process has ended, which closes its end of the pipe; after the deadline, kill it.

        A signal to all processes may have ended the one that would know.
        """
        with suppress(EOFError, OSError):
            while self._connection.poll(max(0.0, deadline - time.monotonic())):
                self._connection.recv_bytes()  # what nobody waits for any more
            self._process.kill()
            if self._process.pid is not None and hasattr(signal, "SIGKILL"):
                os.kill(self._process.pid, signal.SIGKILL)
        self._connection.close()
        self._process.join(timeout=1)

    def _wait_for(self, doing: str, limit: float | None) -> None:
        self.sent, self._limit = doing, limit
        self._deadline = None if limit is None else time.monotonic() + limit

    def _death(self) -> FaultyEnvironmentError:
        self._process.join(timeout=_SECONDS_TO_CLOSE)
        code = self._process.exitcode
        if code is None:
            return FaultyEnvironmentError(f"the process of environment {self._index} no longer answers")
        return FaultyEnvironmentError(f"the process of environment {self._index} {processes.ending(code)}")


def _doing(told: str, data: Any) -> tuple[str, int]:
    """Name what an environment is told to do, and how many steps and resets that takes; 0 if it is something else."""
    if told == "env_method" and data[0] == "go_to":
        (place,) = data[1]
        return "play its episode again", 1 + len(place["actions"]) + len(place["resets"])
    return told, 1 if told in ("step", "reset") else 0


class _Fault(NamedTuple):
    """What was raised in an environment's process."""

    own: ToolkitError | None
    said: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> _Fault:
        text = "".join(traceback.format_exception(error))
        return cls(error if isinstance(error, ToolkitError) else None, describe(error), text)

    def throw(self, index: int) -> None:
        error = self.own
        if isinstance(error, FaultyEnvironmentError):
            error = FaultyEnvironmentError(f"environment {index}: {error.message}", error.hint)
        elif error is None:
            error = FaultyEnvironmentError(f"environment {index} failed in its process: {self.said}")
        error.add_note(f"In the process of environment {index}:\n{self.traceback}")
        raise error


def _work(connection: Connection, pickled: bytes) -> None:
    """Be the process of an environment: do what one is told, until told to end or nobody is there to tell."""
    _leave_signals_to_the_parent()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        env: gym.Env[Any, Any] = cloudpickle.loads(pickled)()
    except (Exception, SystemExit) as error:
        with suppress(OSError):  # nobody is there
            connection.send(_Fault.of(error))
        return
    with suppress(EOFError, OSError):
        connection.send((env.observation_space, env.action_space))
        while (told := connection.recv())[0] != "close":
            _reply(connection, env, told)
    try:
        env.close()
    except Exception as error:
        logging.getLogger("toolkit").warning("an environment does not close: %s", describe(error))


def _reply(connection: Connection, env: gym.Env[Any, Any], told: tuple[str, Any]) -> None:
    try:
        answer = _ANSWERS[told[0]](env, told[1])
    except (Exception, SystemExit) as error:
        answer = _Fault.of(error)
    try:
        connection.send(answer)
    except OSError:
        raise
    except Exception as error:  # what cannot be pickled, as something in info
        connection.send(_Fault.of(error))


def _step(env: gym.Env[Any, Any], action: Any) -> tuple[Any, ...]:
    observation, reward, terminated, truncated, info = env.step(action)
    info["TimeLimit.truncated"] = truncated and not terminated
    reset_info: dict[str, Any] = {}
    if terminated or truncated:
        info["terminal_observation"] = observation
        observation, reset_info = env.reset()
    return observation, float(reward), bool(terminated or truncated), info, reset_info


_ANSWERS: dict[str, Callable[[gym.Env[Any, Any], Any], Any]] = {
    "step": _step,
    "reset": lambda env, data: env.reset(seed=data[0], **({"options": data[1]} if data[1] else {})),
    "render": lambda env, _: env.render(),
    "env_method": lambda env, data: env.get_wrapper_attr(data[0])(*data[1], **data[2]),
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "has_attr": lambda env, name: env.has_wrapper_attr(name),
    "set_attr": lambda env, data: setattr(env, *data),
    "is_wrapped": is_wrapped,
}


def _leave_signals_to_the_parent() -> None:
    """Outlive what reaches all processes of a terminal or a job: training is to be saved before they go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # a function: programs that an environment starts do not inherit it
            signal.signal(getattr(signal, name), lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        # the others too: a launcher may have started the process that this one is forked from
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _end_with_the_parent() -> None:
    """End this process some time after its parent, even if the environment hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(_SECONDS_TO_CLOSE)
        signal.raise_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGABRT)
