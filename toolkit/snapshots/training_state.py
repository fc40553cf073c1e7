"""The whole state of training as plain data without pickle, out of its live objects and into others like them.

It is captured and restored where a rollout starts: there SB3's algorithms hold nothing that matters in local
variables, and a rollout buffer is empty.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv

from toolkit.snapshots.capture import CapturedState, Structure, capture, capture_attributes
from toolkit.snapshots.eval_generators import capture_eval_generators, restore_eval_generators
from toolkit.snapshots.object_kinds import has_state_dict
from toolkit.snapshots.plain_data import NotPlainError, encode_value
from toolkit.snapshots.policy_state import capture_policy, restore_policy
from toolkit.snapshots.replay_buffer import (
    capture_own_state,
    capture_replay_buffer,
    find_unsaved_parts,
    restore_own_state,
    restore_replay_buffer,
)
from toolkit.snapshots.restore import (
    RESTORE_ERRORS,
    check_class,
    is_class_name,
    restore,
    restore_attributes,
    restore_value,
)
from toolkit.snapshots.rng import capture_rng_state, restore_rng_state
from toolkit.snapshots.run_paths import make_absolute, make_relative
from toolkit.snapshots.weights import load_parameters
from toolkit.utils.errors import LostEnvironmentError, RunError, describe_error
from toolkit.utils.vec_envs import iterate_vec_wrappers

# saved separately, or created again whenever training starts
_SKIPPED_ATTRIBUTES = {
    *("replay_buffer", "rollout_buffer", "start_time", "_learner", "tensorboard_log", "_custom_logger"),
}


def can_resume(model: BaseAlgorithm) -> bool:
    """Return whether an algorithm collects rollouts as SB3's do, so that snapshots can be taken between them."""
    return isinstance(model, OffPolicyAlgorithm | OnPolicyAlgorithm)


class TrainingStateCapture:
    """Captures the whole state of a training. Create it where training starts.

    :param run_directory: where callbacks write, if there is one
    :ivar unsaved: names the parts that no snapshot can restore; grows when training makes more of them
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        callbacks: Sequence[BaseCallback],
        run_directory: Path | None = None,
    ) -> None:
        self.unsaved: list[str] = []
        self._model = model
        self._callbacks = callbacks
        self._run_directory = run_directory
        self._start: dict[int, Structure] = {}  # by the id of the owner
        if not can_resume(model):
            self._note_unsaved([f"algorithm {type(model).__name__}: it collects no rollouts as SB3's algorithms do"])
            return
        self._note_unsaved(find_unsaved_parts(getattr(model, "replay_buffer", None)))
        self._capture_attributes()

    def capture(self) -> dict[str, Any]:
        """Return the whole state of training as plain data; large arrays are those of the live objects.

        :raises NotPlainError: if weights are of a kind that cannot be written
        """
        model = self._model
        venv = _get_env(model)
        return {
            "parameters": encode_value(model.get_parameters()),
            "variables": {
                name: encode_value(recursive_getattr(model, name).data) for name in _get_variable_names(model)
            },
            "replay_buffer": capture_replay_buffer(getattr(model, "replay_buffer", None)),
            "environments": venv.env_method("replay_state"),
            "logger": _capture_logger(model.logger),
            "generators": capture_rng_state(model),
            "eval_generators": capture_eval_generators(self._callbacks),
            "trained": [parameter.requires_grad for parameter in model.policy.parameters()],
            **self._capture_attributes(),
        }

    def _capture_attributes(self) -> dict[str, Any]:
        saved_elsewhere = [*_iterate_saved_objects(self._model), *self._callbacks]
        venv = _get_env(self._model)
        self._note_unsaved(itertools.chain(*venv.env_method("list_unrestorable")))
        vec_wrappers = [
            self._capture_object("wrapper", layer, saved_elsewhere) for layer in iterate_vec_wrappers(venv)
        ]
        callbacks = [self._capture_callback(callback, saved_elsewhere) for callback in self._callbacks]
        progress = self._capture_progress(saved_elsewhere)
        policy, unsaved = capture_policy(self._model)
        self._note_unsaved(unsaved)
        return {
            "progress": progress,
            "policy": policy,
            "vec_wrappers": vec_wrappers,
            "callbacks": callbacks,
            "replay_state": self._capture_replay_state(saved_elsewhere),
        }

    def _capture_replay_state(self, saved_elsewhere: Sequence[Any]) -> dict[str, Any] | None:
        buffer = getattr(self._model, "replay_buffer", None)
        captured = capture_own_state(buffer, saved_elsewhere, self._start.get(id(buffer)))
        if captured is None:
            return None
        self._note("replay buffer", buffer, captured)
        return captured.state

    def _capture_callback(self, callback: BaseCallback, saved_elsewhere: Sequence[Any]) -> list[Any]:
        others = _iterate_context_objects(callback)
        name, state = self._capture_object("callback", callback, [*saved_elsewhere, *others])
        if self._run_directory is not None:
            state = make_relative(state, self._run_directory)
        return [name, state, callback.n_calls, callback.num_timesteps]

    def _capture_object(self, role: str, owner: Any, saved_elsewhere: Sequence[Any]) -> list[Any]:
        captured = capture(owner, saved_elsewhere, self._start.get(id(owner)))
        self._note(role, owner, captured)
        return [type(owner).__name__, captured.state]

    def _capture_progress(self, saved_elsewhere: Sequence[Any]) -> dict[str, Any]:
        model = self._model
        captured = capture_attributes(model, _SKIPPED_ATTRIBUTES, saved_elsewhere, self._start.get(id(model)))
        self._note("algorithm", model, captured)
        parts = captured.structure.parts
        return {
            "attributes": {name: data for name, data in captured.state.items() if name not in parts},
            "objects": {name: data for name, data in captured.state.items() if name in parts},
            "own": self._capture_object("algorithm", model, ())[1] if has_state_dict(model) else None,
            "seconds": (time.time_ns() - model.start_time) / 1e9,
        }

    def _note(self, role: str, owner: Any, captured: CapturedState) -> None:
        self._start.setdefault(id(owner), captured.structure)
        self._note_unsaved(f"{role} {type(owner).__name__}: {name}" for name in captured.unsaved)

    def _note_unsaved(self, names: Iterable[str]) -> None:
        self.unsaved += [name for name in dict.fromkeys(names) if name not in self.unsaved]


def restore_before_learning(
    model: BaseAlgorithm, callbacks: Sequence[BaseCallback], saved_state: dict[str, Any]
) -> list[str]:
    """Restore what ``learn`` reads when it starts, and all that is large.

    :return: for each environment that does not repeat its episode, what differs
    :raises RunError: if the state is not that of such a run
    """
    with _report_misfits():
        _check_callbacks(callbacks, [name for name, *_ in saved_state["callbacks"]])
        _restore_policy(model, saved_state)
        buffer = getattr(model, "replay_buffer", None)
        restore_replay_buffer(buffer, saved_state["replay_buffer"])
        restore_own_state(buffer, saved_state.get("replay_state"))  # version 0.1.0 saved none
        differences = _restore_environments(model, saved_state)
        # without objects, as `learn` makes some: noise for each environment
        restore_attributes(model, saved_state["progress"]["attributes"], _SKIPPED_ATTRIBUTES)
        # the live objects have these now; memory should not hold a replay buffer twice
        saved_state.update(parameters=None, replay_buffer=None, replay_state=None, environments=None)
        return [f"environment {index} {text}" for index, text in enumerate(differences) if text]


def restore_for_acting(model: BaseAlgorithm, saved_state: dict[str, Any]) -> None:
    """Restore what decides how a model acts: its policy, and the wrappers of its environments.

    :raises RunError: if the state is not that of such a run
    """
    with _report_misfits():
        _restore_policy(model, saved_state)
        _restore_environments(model, saved_state)


def _restore_policy(model: BaseAlgorithm, saved_state: dict[str, Any]) -> None:
    n_saved, n_envs = len(saved_state["environments"]), _get_env(model).num_envs
    if n_saved != n_envs:
        raise ValueError(f"it has {n_saved} environments, not {n_envs}")
    load_parameters(restore_value(saved_state["parameters"]), model)
    for name in _get_variable_names(model):
        recursive_getattr(model, name).data.copy_(restore_value(saved_state["variables"][name]))
    restore_policy(model, saved_state.get("policy", {}))  # version 0.1.0 saved none


def _restore_environments(model: BaseAlgorithm, saved_state: dict[str, Any]) -> list[str]:
    """Restore the running episodes and the vec wrappers; return what differs in each environment, if anything does."""
    venv = _get_env(model)
    venv.reset()  # so that all wrappers have what they make in a reset
    differences = [_replay(venv, index, episode) for index, episode in enumerate(saved_state["environments"])]
    for layer, (name, state) in zip(iterate_vec_wrappers(venv), saved_state["vec_wrappers"], strict=True):
        _restore_object(layer, name, state)
    return differences


def restore_at_rollout_start(
    model: BaseAlgorithm,
    callbacks: Sequence[BaseCallback],
    saved_state: dict[str, Any],
    run_directory: Path | None = None,
) -> None:
    """Restore the rest where the first rollout starts: what ``learn`` has changed since, and the generators.

    :raises RunError: if the state is not that of such a run
    """
    with _report_misfits():
        _restore_progress(model, saved_state["progress"])
        _restore_requires_grad(model, saved_state["trained"])
        for callback, (name, state, n_calls, num_timesteps) in zip(callbacks, saved_state["callbacks"], strict=True):
            _restore_object(callback, name, make_absolute(state, run_directory) if run_directory else state)
            callback.n_calls, callback.num_timesteps = n_calls, num_timesteps
        if "eval_generators" in saved_state:  # earlier versions saved none
            restore_eval_generators(callbacks, saved_state["eval_generators"])
        _restore_logger(model.logger, saved_state["logger"])
        restore_rng_state(model, saved_state["generators"])


@contextmanager
def _report_misfits() -> Iterator[None]:
    try:
        yield
    except RESTORE_ERRORS as error:
        raise RunError(f"the snapshot is not of a run of this config: {error}") from error


def _check_callbacks(callbacks: Sequence[BaseCallback], class_names: list[str]) -> None:
    if len(class_names) != len(callbacks) or not all(map(is_class_name, callbacks, class_names)):
        saved, current = class_names[1:], [type(callback).__name__ for callback in callbacks[1:]]
        # the first is the toolkit's own
        raise ValueError(f"its callbacks are {', '.join(saved)}, but the run has {', '.join(current)}")


def _replay(venv: VecEnv, index: int, episode: dict[str, Any]) -> str:
    """Replay an environment's episode; return what differs, if anything does."""
    try:
        try:
            (difference,) = venv.env_method("replay", episode, indices=[index])
        except LostEnvironmentError as error:
            base_venv: Any = venv.unwrapped  # what runs environments in processes can start one again
            base_venv.restart(index)
            venv.env_method("drop_episode", episode, indices=[index])
            return f"cannot repeat its episode ({error.message}): a new episode starts"
    except Exception as error:
        raise RunError(
            f"environment {index} failed while its episode was replayed: {describe_error(error)}"
        ) from error
    return str(difference)


def _restore_object(owner: Any, class_name: str, state: dict[str, Any]) -> None:
    check_class(owner, class_name)
    restore(owner, state)


def _restore_progress(model: BaseAlgorithm, progress: dict[str, Any]) -> None:
    restore_attributes(model, {**progress["attributes"], **progress["objects"]}, _SKIPPED_ATTRIBUTES)
    if has_state_dict(model):
        restore(model, progress["own"])
    model.start_time = time.time_ns() - int(progress["seconds"] * 1e9)


def _restore_requires_grad(model: BaseAlgorithm, flags: list[bool]) -> None:
    if any(type(flag) is not bool for flag in flags):
        raise ValueError("'trained' does not say true or false of each parameter")
    for parameter, flag in zip(model.policy.parameters(), flags, strict=True):
        parameter.requires_grad = flag


def _capture_logger(logger: Logger) -> dict[str, Any]:
    """Return what is recorded and not yet dumped, and the state of each output."""
    recorded: dict[str, Any] = {}
    for name, value in logger.name_to_value.items():
        try:
            recorded[name] = [
                encode_value(value),
                logger.name_to_count.get(name),
                list(logger.name_to_excluded.get(name, ())),
            ]
        except NotPlainError:  # a figure or a video, which only TensorBoard takes
            continue
    outputs = [[type(output).__name__, capture(output).state] for output in _get_stateful_outputs(logger)]
    return {"recorded": recorded, "outputs": outputs}


def _restore_logger(logger: Logger, saved_state: dict[str, Any]) -> None:
    for recorded in (logger.name_to_value, logger.name_to_count, logger.name_to_excluded):
        recorded.clear()  # of what callbacks record when training starts
    for name, (value, count, excluded) in saved_state["recorded"].items():
        logger.name_to_value[name] = restore_value(value)
        logger.name_to_excluded[name] = tuple(excluded)
        if count is not None:
            logger.name_to_count[name] = count
    for output, (name, state) in zip(_get_stateful_outputs(logger), saved_state["outputs"], strict=True):
        _restore_object(output, name, state)


def _get_stateful_outputs(logger: Logger) -> list[KVWriter]:
    return [output for output in logger.output_formats if hasattr(type(output), "state_dict")]


def _iterate_saved_objects(model: BaseAlgorithm) -> Iterator[Any]:
    """Yield what a snapshot saves of the model and its environments, wherever others refer to it."""
    yield from (model, model.logger, getattr(model, "replay_buffer", None), getattr(model, "rollout_buffer", None))
    yield from (*model.policy.modules(), *model.policy.parameters(), *model.policy.buffers())
    for names in model._get_torch_save_params():
        yield from (recursive_getattr(model, name) for name in names)
    venv = _get_env(model)
    yield from iterate_vec_wrappers(venv)
    yield venv.unwrapped
    for env in getattr(venv.unwrapped, "envs", ()):
        yield from (env, env.unwrapped)


def _iterate_context_objects(callback: BaseCallback) -> Iterator[Any]:
    """Yield what a callback refers to of its run."""
    context = getattr(callback, "context", None)
    yield context
    yield from vars(context).values() if hasattr(context, "__dict__") else ()


def _get_env(model: BaseAlgorithm) -> VecEnv:
    venv = model.get_env()
    if venv is None:
        raise ValueError("the model has no environments")
    return venv


def _get_variable_names(model: BaseAlgorithm) -> list[str]:
    """Return the names of the tensors that belong to no module: SAC's entropy coefficient, for example."""
    return model._get_torch_save_params()[1]
