"""The promises of a callback."""

from __future__ import annotations

import copy
import csv
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from toolkit.config.load import ResolvedConfig
from toolkit.config.registry import KINDS, find
from toolkit.config.signatures import read_signature
from toolkit.envs.factory import make_vec_env
from toolkit.snapshots.plain_data import is_equal
from toolkit.snapshots.rng import find_drawn_generators, get_generator_states
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
)
from toolkit.testing.short_runs import (
    TrainingObserver,
    crash_and_resume,
    find_different_tensors,
    join_names,
    train_briefly,
)
from toolkit.training.callbacks import RunPlan
from toolkit.training.checks import find_callback_problems
from toolkit.training.config_callbacks import build_config_callback
from toolkit.training.eval_env import EvaluationEnv
from toolkit.training.model import build_model
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import train
from toolkit.utils.callbacks import iterate_nested
from toolkit.utils.text import format_count

_TIMESTEPS = 256
_ROLLOUT_TIMESTEPS = 64
_CRASH_AT = 160  # after the second of four rollouts
_ENV_COUNTS = (1, 4)
_PER_ENV = "`self.locals` has one entry per environment, and num_timesteps grows by their number"


def check_callback(
    callback: str | type[BaseCallback],
    *,
    params: Mapping[str, Any] = NO_PARAMS,
    env: Env = DEFAULT_ENV,
    algorithm: str = "ppo",
    changes_training: bool = False,
) -> None:
    """Check that a callback works with one and four environments, leaves training unchanged, and can be resumed.

    Its ``check_model`` must leave the model and the random generators as they are.

    :param callback: its name or its class
    :param params: arguments of its constructor
    :param env: where it trains for a few hundred timesteps: a Gymnasium id, or a mapping like ``env`` in the YAML
    :param algorithm: what trains there: an algorithm for the environment's actions
    :param changes_training: whether it may change the weights or end training early
    :raises ConformanceError: with the first promise that it breaks, and what to change
    :raises ToolkitError: if the callback does not exist or cannot be built
    """
    with name_component(callback) as name:
        for n_envs in _ENV_COUNTS:
            callbacks = [{"name": name, "params": dict(params)}]
            config, bare = (_make_config(env, n_envs, algorithm, items) for items in (callbacks, []))
            _check_with(config, None if changes_training else bare)


def _check_with(config: ResolvedConfig, bare: ResolvedConfig | None) -> None:
    """Check the callback in trainings.

    :param bare: the config without the callback; ``None`` if that may change training
    """
    label, n_envs = config.components.callbacks[0].cls.__name__, config.env.n_envs
    with TemporaryDirectory() as folder:
        _check_that_model_check_changes_nothing(label, config, Path(folder))
        reference = TrainingObserver()
        if bare:
            train(bare, Path(folder) / "without", [reference])
        failure = f"{label}: training with {format_count(n_envs, 'environment')} failed"
        run, observer = train_briefly(config, Path(folder) / "with", failure, f"correct what was raised; {_PER_ENV}")
        if bare:
            _check_training_unchanged(label, observer, reference)
        if observer.unsaved:
            names = join_names(observer.unsaved)
            raise ConformanceError(
                f"{label}: {names} cannot be saved, so a run could not be resumed exactly; {STATE_ADVICE}"
            )
        if n_envs > 1:
            _check_resume(label, config, run, observer)


def _make_config(env: Env, n_envs: int, algorithm: str, callbacks: list[dict[str, Any]]) -> ResolvedConfig:
    steps, cls = _ROLLOUT_TIMESTEPS // n_envs, find(KINDS["algorithms"], algorithm)
    params = {"n_steps": steps, "n_epochs": 1, "batch_size": 32}
    if issubclass(cls, OffPolicyAlgorithm):
        params = {"train_freq": steps, "learning_starts": 0, "buffer_size": 10_000, "batch_size": 32}
    params = {name: value for name, value in params.items() if name in read_signature(cls).parameters}
    return make_config(
        timesteps=_TIMESTEPS,
        env={**make_env_config(env), "n_envs": n_envs},
        algorithm={"name": algorithm, "params": params, "policy_params": {"net_arch": [8]}},
        callbacks=callbacks,
        snapshots={"every_timesteps": _ROLLOUT_TIMESTEPS, "every_minutes": None},
    )


def _check_that_model_check_changes_nothing(label: str, config: ResolvedConfig, folder: Path) -> None:
    """Let the callback, and those that it holds, check a model as `toolkit check` does."""
    with closing(make_vec_env(config, seed=SEED)) as venv:
        model = build_model(config, venv, seed=SEED)
        with closing(EvaluationEnv(config, model)) as evaluation_env:
            callback = build_config_callback(config, 0, evaluation_env, folder)
            weights, generators = copy.deepcopy(model.policy), get_generator_states()
            plan = RunPlan(config, model, [*iterate_nested(callback)])
            component = config.components.callbacks[0]
            problems = find_callback_problems(component.path, callback, plan, component.name)
            changes = find_drawn_generators(generators, get_generator_states())
    if problems:
        raise config.make_error(problems)
    changes = [f"the generator of {name}" for name in changes]
    changes += [f"the weights ({name})" for name in find_different_tensors(weights, model.policy)]
    if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer and model.replay_buffer.size():
        changes.append("the replay buffer")
    if changes:
        advice = "it is called by `toolkit check`, and not on resume: move this to _on_training_start"
        raise ConformanceError(f"{label}.check_model changed {join_names(changes)}; {advice}")


def _check_training_unchanged(label: str, observer: TrainingObserver, reference: TrainingObserver) -> None:
    """Compare with a training without the callback."""
    exemption = "if that is its purpose, pass changes_training=True"
    if observer.model.num_timesteps != reference.model.num_timesteps:
        end = f"timestep {observer.model.num_timesteps} of {reference.model.num_timesteps}"
        raise ConformanceError(
            f"{label} ended training at {end}; _on_step returns True to continue training; {exemption}"
        )
    if find_different_tensors(observer.model, reference.model):
        advice = (
            "a callback that only observes steps its own environments; it draws from its own generator "
            "(np.random.default_rng(seed)), not from np.random, random or torch"
        )
        raise ConformanceError(
            f"{label} changed training: the final weights differ from those without it; {advice}; {exemption}"
        )


def _check_resume(label: str, config: ResolvedConfig, run: RunDirectory, uninterrupted: TrainingObserver) -> None:
    """Crash and resume a run, and compare its end with that of an uninterrupted one.

    A difference is ignored if a second uninterrupted run shows it too: it is a clock, for example.
    """
    failure = f"{label}: `toolkit resume` after a crash failed"
    with TemporaryDirectory() as folder:
        out = Path(folder) / "resumed"
        resumed = crash_and_resume(config, out, _CRASH_AT, failure, STATE_ADVICE)
        if resumed is None:
            return
        differences = _compare(uninterrupted, run, resumed, RunDirectory(out, config))
        if differences:
            repeated_run, repeated = train_briefly(config, Path(folder) / "repeated", failure, STATE_ADVICE)
            differences -= _compare(uninterrupted, run, repeated, repeated_run)
    if differences:
        names = join_names(sorted(differences))
        raise ConformanceError(
            f"{label}: a run that crashed and resumed differs from an uninterrupted one: {names}; {STATE_ADVICE}; "
            "ask self.context.is_resumed, of a RunCallback, before what is done once"
        )


def _compare(
    observer: TrainingObserver, run: RunDirectory, other_observer: TrainingObserver, other_run: RunDirectory
) -> set[str]:
    """Name the differences between the ends of two runs: callback state, logged columns, weights."""
    state, other_state = _state_of(observer), _state_of(other_observer)
    names = state.keys() | other_state.keys()
    differences = {name for name in names if not is_equal(state.get(name), other_state.get(name))}
    differences |= {
        f"progress.csv ({name})" for name, _ in _read_columns(run).items() ^ _read_columns(other_run).items()
    }
    return differences | {
        f"the weights ({name})" for name in find_different_tensors(observer.model, other_observer.model)
    }


def _state_of(observer: TrainingObserver) -> dict[str, Any]:
    state = observer.callback_state["state"]
    return state if isinstance(state, dict) else {"state_dict": state}


def _read_columns(run: RunDirectory) -> dict[str, tuple[str, ...]]:
    """Return the columns of progress.csv, without times; none if training ended before a log was due."""
    if not (run.directory / "progress.csv").exists():
        return {}
    with (run.directory / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if not name.startswith("time/")]
    return {name: tuple(row[name] for row in rows) for name in names}
