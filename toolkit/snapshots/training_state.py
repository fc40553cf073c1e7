"""The whole state of training out of its live objects and into others like them, as plain data without pickle.

It is taken and put back where a rollout starts: there the algorithms of SB3 hold nothing in local variables that
matters, and a rollout buffer is empty.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from toolkit.snapshots.capture import CapturedState, Live, attributes, capture, encode_value
from toolkit.snapshots.object_kinds import has_state_dict
from toolkit.snapshots.plain_data import NotPlainError
from toolkit.snapshots.replay_buffer import put_transitions_back, transitions, unrestorable
from toolkit.snapshots.restore import MISFITS, decode, restore, restore_attributes
from toolkit.snapshots.rng import generators, put_generators_back
from toolkit.snapshots.weights import put_weights
from toolkit.utils.errors import RunError, describe

_NOT_THE_MODELS = {"replay_buffer", "rollout_buffer", "start_time", "_learner", "tensorboard_log", "_custom_logger"}

# what snapshots of earlier versions call a class
_FORMER_CLASS_NAMES = {"Bookkeeper": "MonitorCsvWriter"}


def can_resume(model: BaseAlgorithm) -> bool:
    """Say whether an algorithm collects rollouts as SB3's do, so that there is a place to take snapshots."""
    return isinstance(model, OffPolicyAlgorithm | OnPolicyAlgorithm)


class TrainingStateCapture:
    """Takes the whole state of a training out of its live objects; made where training starts.

    :ivar missed: names what of the training no snapshot brings back, as far as that has shown; grows
    """

    def __init__(self, model: BaseAlgorithm, callbacks: Sequence[BaseCallback]) -> None:
        self.missed: list[str] = []
        self._model = model
        self._callbacks = callbacks
        self._start: dict[int, Live] = {}  # by owner
        if not can_resume(model):
            self._miss([f"algorithm {type(model).__name__}: it collects no rollouts as SB3's algorithms do"])
            return
        self._miss(unrestorable(getattr(model, "replay_buffer", None)))
        self._attributes_of_all()

    def take(self) -> dict[str, Any]:
        """Return the whole state of training as plain data; large arrays are those of the live objects.

        :raises NotPlainError: if weights are of a kind that cannot be written
        """
        model = self._model
        venv = _environments(model)
        return {
            "parameters": encode_value(model.get_parameters()),
            "variables": {name: encode_value(recursive_getattr(model, name).data) for name in _variables(model)},
            "replay_buffer": transitions(getattr(model, "replay_buffer", None)),
            "environments": venv.env_method("replay_state"),
            "logger": _logger_state(model.logger),
            "generators": generators(model),
            "trained": [one.requires_grad for one in model.policy.parameters()],
            **self._attributes_of_all(),
        }

    def _attributes_of_all(self) -> dict[str, Any]:
        elsewhere = [*_looked_after(self._model), *self._callbacks]
        venv = _environments(self._model)
        self._miss(itertools.chain(*venv.env_method("list_unrestorable")))
        layers = [self._of("wrapper", layer, elsewhere) for layer in _layers(venv)]
        called = [
            [*self._of("callback", one, [*elsewhere, *_context(one)]), one.n_calls, one.num_timesteps]
            for one in self._callbacks
        ]
        return {"progress": self._progress(elsewhere), "vec_wrappers": layers, "callbacks": called}

    def _of(self, what: str, owner: Any, elsewhere: Sequence[Any]) -> list[Any]:
        captured = capture(owner, elsewhere, self._start.get(id(owner)))
        return [type(owner).__name__, self._noted(what, owner, captured).state]

    def _progress(self, elsewhere: Sequence[Any]) -> dict[str, Any]:
        model = self._model
        captured = attributes(model, _NOT_THE_MODELS, elsewhere, self._start.get(id(model)))
        held, live = self._noted("algorithm", model, captured).state, captured.live
        return {
            "attributes": {name: one for name, one in held.items() if name not in live},
            "objects": {name: one for name, one in held.items() if name in live},
            "own": self._of("algorithm", model, ())[1] if has_state_dict(model) else None,
            "seconds": (time.time_ns() - model.start_time) / 1e9,
        }

    def _noted(self, what: str, owner: Any, captured: CapturedState) -> CapturedState:
        self._start.setdefault(id(owner), captured.live)
        self._miss(f"{what} {type(owner).__name__}: {name}" for name in captured.missed)
        return captured

    def _miss(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.missed:
                self.missed.append(name)


def _looked_after(model: BaseAlgorithm) -> Iterator[Any]:
    """Give what a snapshot has of the model and its environments, wherever else it is held."""
    yield from (model, model.logger, getattr(model, "replay_buffer", None), getattr(model, "rollout_buffer", None))
    yield from (*model.policy.modules(), *model.policy.parameters(), *model.policy.buffers())
    for names in model._get_torch_save_params():
        yield from (recursive_getattr(model, name) for name in names)
    venv = _environments(model)
    yield from _layers(venv)
    yield venv.unwrapped
    for env in getattr(venv.unwrapped, "envs", ()):
        yield from (env, env.unwrapped)


def _context(callback: BaseCallback) -> Iterator[Any]:
    """Give what a callback may know of its run."""
    context = getattr(callback, "context", None)
    yield context
    yield from vars(context).values() if hasattr(context, "__dict__") else ()


def restore_before_learning(
    model: BaseAlgorithm, callbacks: Sequence[BaseCallback], kept: dict[str, Any]
) -> list[int]:
    """Put back what ``learn`` reads when it starts, and all that is large.

    :return: the environments that did not come back to where they were
    :raises RunError: if the state is not that of such a run
    """
    with _fitting():
        then, now = (
            [_current_name(name) for name, *_ in kept["callbacks"]],
            [type(callback).__name__ for callback in callbacks],
        )
        if then != now:
            raise ValueError(f"its callbacks are {', '.join(then[1:])}, and here they are {', '.join(now[1:])}")
        venv = _environments(model)
        if len(kept["environments"]) != venv.num_envs:
            raise ValueError(f"it is of {len(kept['environments'])} environments, not {venv.num_envs}")
        put_weights(decode(kept["parameters"]), model)
        for name in _variables(model):
            recursive_getattr(model, name).data.copy_(decode(kept["variables"][name]))
        put_transitions_back(getattr(model, "replay_buffer", None), kept["replay_buffer"])
        venv.reset()  # so that wrappers of all environments have what they make when they are reset
        reached = [_replay(venv, index, place) for index, place in enumerate(kept["environments"])]
        for layer, (name, data) in zip(_layers(venv), kept["vec_wrappers"], strict=True):
            _into(layer, name, data)
        # without objects, of which `learn` makes some: noise for each environment
        restore_attributes(model, kept["progress"]["attributes"], _NOT_THE_MODELS)
        # the live objects have it now; a replay buffer is not to be in memory twice
        kept.update(parameters=None, replay_buffer=None, environments=None)
        return [index for index, there in enumerate(reached) if not there]


def _replay(venv: VecEnv, index: int, place: dict[str, Any]) -> bool:
    """Bring an environment where it was; say whether it shows what it showed there."""
    try:
        (reached,) = venv.env_method("replay", place, indices=[index])
    except Exception as error:
        message = f"environment {index} failed while its episode was played again: {describe(error)}"
        raise RunError(message) from error
    return bool(reached)


def restore_at_rollout_start(model: BaseAlgorithm, callbacks: Sequence[BaseCallback], kept: dict[str, Any]) -> None:
    """Put back the rest, where the first rollout starts: what starting to learn has changed, and what it draws from.

    :raises RunError: if the state is not that of such a run
    """
    with _fitting():
        _put_progress_back(model, kept["progress"])
        _freeze(model, kept["trained"])
        for callback, (name, data, n_calls, num_timesteps) in zip(callbacks, kept["callbacks"], strict=True):
            _into(callback, name, data)
            callback.n_calls, callback.num_timesteps = n_calls, num_timesteps
        _put_logger_back(model.logger, kept["logger"])
        put_generators_back(model, kept["generators"])


@contextmanager
def _fitting() -> Iterator[None]:
    """Say of data that does not fit that it does not."""
    try:
        yield
    except MISFITS as error:
        raise RunError(f"the snapshot is not of a run of this config: {error}") from error


def _into(owner: Any, name: str, data: dict[str, Any]) -> None:
    if _current_name(name) != type(owner).__name__:
        raise ValueError(f"where it has {name} there is {type(owner).__name__}")
    restore(owner, data)


def _current_name(class_name: str) -> str:
    return _FORMER_CLASS_NAMES.get(class_name, class_name)


def _environments(model: BaseAlgorithm) -> VecEnv:
    venv = model.get_env()
    if venv is None:
        raise ValueError("the model has no environments")
    return venv


def _layers(venv: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv


def _variables(model: BaseAlgorithm) -> list[str]:
    return model._get_torch_save_params()[1]


def _put_progress_back(model: BaseAlgorithm, kept: dict[str, Any]) -> None:
    restore_attributes(model, {**kept["attributes"], **kept["objects"]}, _NOT_THE_MODELS)
    if has_state_dict(model):
        restore(model, kept["own"])
    model.start_time = time.time_ns() - int(kept["seconds"] * 1e9)


def _freeze(model: BaseAlgorithm, trained: list[bool]) -> None:
    """Let each parameter of the policy be trained or not, as it was."""
    if any(type(one) is not bool for one in trained):
        raise ValueError("what is trained is not told by true and false")
    for parameter, one in zip(model.policy.parameters(), trained, strict=True):
        parameter.requires_grad = one


def _logger_state(logger: Logger) -> dict[str, Any]:
    """Return what was recorded and not yet dumped, and where each output stands."""
    recorded: dict[str, Any] = {}
    for name, value in logger.name_to_value.items():
        try:
            recorded[name] = [
                encode_value(value),
                logger.name_to_count.get(name),
                list(logger.name_to_excluded.get(name, ())),
            ]
        except NotPlainError:  # a figure, a video: for TensorBoard alone
            continue
    outputs = [
        [type(output).__name__, capture(output).state]
        for output in logger.output_formats
        if hasattr(type(output), "state_dict")
    ]
    return {"recorded": recorded, "outputs": outputs}


def _put_logger_back(logger: Logger, kept: dict[str, Any]) -> None:
    for recorded in (logger.name_to_value, logger.name_to_count, logger.name_to_excluded):
        recorded.clear()  # of what callbacks record when training starts
    for name, (value, count, excluded) in kept["recorded"].items():
        logger.name_to_value[name] = decode(value)
        logger.name_to_excluded[name] = tuple(excluded)
        if count is not None:
            logger.name_to_count[name] = count
    outputs = [output for output in logger.output_formats if hasattr(type(output), "state_dict")]
    for output, (name, data) in zip(outputs, kept["outputs"], strict=True):
        _into(output, name, data)
