"""What wrappers have learned or counted during training: out of some environments, into copies of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from toolkit.envs.episodes import EpisodeRecorder
from toolkit.snapshots import capture, restore
from toolkit.snapshots.object_kinds import has_state_dict
from toolkit.snapshots.transfer import transfer, warn_of_missing
from toolkit.utils.vec_envs import iterate_vec_wrappers

_OF_RUNNING_EPISODES = {"training", "returns", "old_obs", "old_reward"}  # attributes of VecNormalize


def capture_wrapper_states(venv: VecEnv) -> dict[str, Any]:
    """Return, as plain data, what the wrappers of environments have learned or counted.

    Among several environments the wrappers of the first one count.

    :return: the states of ``wrappers`` and ``vec_wrappers``, what calls from outside have ``changed`` in the
        environment, the ``parameters`` that the next episode would have, the number of environments, and the names of
        attributes that are ``unsaved``
    """
    recorder = find_recorder(venv)
    if recorder is not None and recorder.taken_over is not None:
        return recorder.taken_over
    (inner,) = venv.env_method("capture_for_copies", indices=[0])
    layers, states, unsaved = list_vec_wrappers(venv), [], inner["unsaved"]
    others = [*layers, venv, venv.unwrapped, *getattr(venv.unwrapped, "envs", ())]
    for layer in layers:
        captured = capture.capture(layer, others)
        states.append({"class": type(layer).__name__, "state": _without_running(layer, captured.state)})
        unsaved += [f"wrapper {type(layer).__name__}: {name}" for name in captured.unsaved]
    parameters = {} if recorder is None else dict(recorder.parameters.values)
    return {**inner, "vec_wrappers": states, "n_envs": venv.num_envs, "parameters": parameters, "unsaved": unsaved}


def load_wrapper_states(venv: VecEnv, states: dict[str, Any]) -> None:
    """Load what :func:`capture_wrapper_states` returned for other environments of the same config.

    Statistics are frozen where there is a switch: in Gymnasium's wrappers and ``VecNormalize``. Random generators stay
    those of the environments.

    :param states: also those that version 0.1.0 wrote
    :raises ValueError: if they do not fit; also another of :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
    """
    if "n_envs" not in states:
        _load_former_states(venv, states)
        _freeze_statistics(venv)
        return
    _take_over(venv, states)
    if _load_vec_wrappers(venv, states):
        seeds = venv.unwrapped._seeds
        venv.reset()  # makes the objects that the vec wrappers do not have yet
        venv.unwrapped._seeds = seeds
        _take_over(venv, states)
        for name in _load_vec_wrappers(venv, states):
            warn_of_missing(name)
    _freeze_statistics(venv)
    if (recorder := find_recorder(venv)) is not None:
        recorder.taken_over = states


def keep_wrapper_states(venv: VecEnv) -> None:
    """Keep what the wrappers have learned for copies of environments that are about to be closed."""
    if (recorder := find_recorder(venv)) is not None:
        recorder.taken_over = capture_wrapper_states(venv)
    _freeze_statistics(venv)


def select_wrapper_states(
    venv: VecEnv, states: dict[str, Any], *, new: Collection[str], is_same_env: bool
) -> dict[str, Any]:
    """Return the part of what :func:`capture_wrapper_states` returned that fits environments with other wrappers.

    Wrappers that both have take it over, in their order; others start anew.

    :param venv: environments with other wrappers, or of another kind
    :param new: class names of wrappers that start anew though both have them, because their parameters differ
    :param is_same_env: whether the environment inside all wrappers takes over what calls from outside have changed
    """
    if not (states["wrappers"] or states["changed"]):  # those of a batch have nothing that others could take over
        return states
    (names,) = venv.env_method("list_wrapper_names", indices=[0])
    left = [state for state in states["wrappers"] if state is not None and state["class"] not in new]
    selected: list[dict[str, Any] | None] = []
    for name in names:
        index = next((index for index, state in enumerate(left) if state["class"] == name), None)
        selected.append(None if index is None else left[index])
        left = left if index is None else left[index + 1 :]
    changed = states["changed"] if is_same_env else [{} for _ in states["changed"]]
    return {**states, "wrappers": selected, "changed": changed}


def load_statistics(venv: VecEnv, states: dict[str, Any]) -> list[str]:
    """Load what wrappers have learned elsewhere into environments that are about to train, maybe of another config.

    Each wrapper that learns gets the state of the next one of its class: ``VecNormalize``, Gymnasium's normalizers,
    and those with a ``state_dict``. All environments get the same, and continue to learn.

    :param states: as :func:`capture_wrapper_states` returned them, also those that version 0.1.0 wrote
    :return: names of what does not fit
    :raises ValueError: as :func:`load_wrapper_states`; also another of its errors
    """
    if "n_envs" not in states:
        _load_former_states(venv, states)
        return []
    misfits = [name for names in venv.env_method("take_statistics", states["wrappers"]) for name in names]
    saved = [*states["vec_wrappers"]]
    for layer in list_vec_wrappers(venv):
        state = next((state for state in saved if restore.is_class_name(layer, state["class"])), None)
        if state is None or not (isinstance(layer, VecNormalize) or has_state_dict(layer)):
            continue
        saved.remove(state)
        n_envs = states["n_envs"], venv.num_envs
        unfit = transfer(layer, _without_running(layer, state["state"]), n_envs)
        misfits += [f"{type(layer).__name__}: {name}" for name in unfit]
    return misfits


def _take_over(venv: VecEnv, states: dict[str, Any]) -> None:
    if states["wrappers"] or states["changed"]:  # those of a batch have nothing that others could take over
        venv.env_method("take_over", states["wrappers"], states["changed"])
    if parameters := states.get("parameters"):  # earlier versions had none
        if not (isinstance(parameters, dict) and all(isinstance(path, str) for path in parameters)):
            raise ValueError("'parameters' does not have values by dotted paths")
        venv.env_method("plan_parameters", parameters)


def list_vec_wrappers(venv: VecEnv) -> list[VecEnvWrapper]:
    """Return the config's vec wrappers, outermost first."""
    return [
        layer for layer in iterate_vec_wrappers(venv) if not isinstance(layer, EpisodeRecorder | VecTransposeImage)
    ]


def find_recorder(venv: VecEnv | None) -> EpisodeRecorder | None:
    """Return the recorder around environments of a config, inside what SB3 adds."""
    return next((layer for layer in iterate_vec_wrappers(venv) if isinstance(layer, EpisodeRecorder)), None)


def _without_running(layer: VecEnvWrapper, state: dict[str, Any]) -> dict[str, Any]:
    """Leave out what ``VecNormalize`` holds of running episodes."""
    if not isinstance(layer, VecNormalize) or state["$"] != capture.ATTRIBUTES:
        return state
    attributes = {name: data for name, data in state["state"].items() if name not in _OF_RUNNING_EPISODES}
    return {**state, "state": attributes}


def _load_vec_wrappers(venv: VecEnv, states: dict[str, Any]) -> list[str]:
    """Load the states of the vec wrappers; return the names of what does not fit them as they are now."""
    missing = []
    for layer, state in zip(list_vec_wrappers(venv), states["vec_wrappers"], strict=True):
        restore.check_class(layer, state["class"])
        n_envs = states["n_envs"], venv.num_envs
        missing += [f"wrapper {type(layer).__name__}: {name}" for name in transfer(layer, state["state"], n_envs)]
    return missing


def _load_former_states(venv: VecEnv, states: dict[str, Any]) -> None:
    """Load what version 0.1.0 wrote: statistics alone; nothing if no wrapper had any."""
    if not states:
        return
    venv.env_method("load_wrapper_states", states["wrappers"])
    for layer, attributes in zip(list_vec_wrappers(venv), states["vec_wrappers"], strict=True):
        restore.restore_attributes(layer, attributes)


def _freeze_statistics(venv: VecEnv) -> None:
    venv.env_method("freeze_statistics")
    for layer in list_vec_wrappers(venv):
        if isinstance(layer, VecNormalize):
            layer.training = False
