"""Train a config to the end, or resume a run."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from toolkit.algorithms.acceleration import accelerated
from toolkit.config.environments import EnvFunction
from toolkit.config.load import ResolvedConfig, remember_trusted_code, resolve_config
from toolkit.config.registry import KINDS, find
from toolkit.config.run_path import show_run
from toolkit.config.schema import RunConfig
from toolkit.envs.episode_numbers import EpisodeNumbers
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.factory import derived_seed, make_vec_env, try_rewards
from toolkit.snapshots import training_state
from toolkit.snapshots.callback import RolloutHook, RunCallbackList, StopTraining
from toolkit.snapshots.eval_generators import list_own_eval_envs
from toolkit.snapshots.rng import preserve_rng_state, seed_global_generators
from toolkit.snapshots.store import SnapshotStore
from toolkit.training import actions_csv
from toolkit.training.callbacks import RunCallback, RunPlan, StageCallback, SuccessCriterion, TrainingContext
from toolkit.training.checks import (
    find_callback_problems,
    find_obstacles_to_learning,
    refuse_lone_environment,
    refuse_missing_masks,
    refuse_unfit_normalization,
)
from toolkit.training.config_callbacks import (
    build_config_callback,
    list_callbacks_with_run,
    place_files,
    refuse_unfit_callbacks,
)
from toolkit.training.continued import copy_logs, restore_continued
from toolkit.training.device import describe_missing_device, refuse_missing_device
from toolkit.training.diagnosis import HalfTimeCheck, diagnose_training, hash_weights, keep_recent_steps
from toolkit.training.eval_callbacks import prepare_eval_callbacks
from toolkit.training.eval_env import EvaluationEnv, EvaluationGuard, has_evaluation_env
from toolkit.training.evaluations import EvaluationLog
from toolkit.training.existing_run import has_ended, has_started
from toolkit.training.logged_numbers import log_info, logs_rewards
from toolkit.training.logger import IterationLogger, default_log_interval, make_logger
from toolkit.training.model import build_model, limit_torch_threads, save_model
from toolkit.training.monitor_csv import MonitorCsvWriter
from toolkit.training.results import ENDED
from toolkit.training.run_directory import RunDirectory
from toolkit.training.space_checks import log_space_warnings
from toolkit.training.start import load_start
from toolkit.training.value_estimates import trace_values
from toolkit.utils.attributes import suggest_base_wrappers
from toolkit.utils.callbacks import iterate_nested
from toolkit.utils.errors import ConfigError, KeyPath, Problem, RunError, TrainingError, describe_error
from toolkit.utils.signals import InterruptedTraining, SignalGuard

_log = logging.getLogger("toolkit")


def train(
    config: RunConfig,
    out: Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
    *,
    progress_bar: bool = False,
) -> RunDirectory:
    """Train a config in a new run directory.

    Everything is built before the directory is created, so an invalid config leaves nothing behind. Ctrl-C and SIGTERM
    stop training where the next rollout starts: a snapshot and the model are saved, and the status is
    ``interrupted``. A second signal stops it at once.

    :param out: the run directory, empty or absent; by default ``runs/<name>-<n>``
    :param callbacks: called after the config's own
    :param progress_bar: whether to show a progress bar if the config has none
    :raises ConfigError: if something in the config cannot be built, or does not fit together
    :raises TrainingError: if training fails; the status in the run directory is then ``failed``
    """
    resolved = resolve_config(config)
    refuse_missing_device(resolved)
    try_rewards(resolved)
    with _open_session(resolved, callbacks, _progress_display(config, progress_bar)) as session:
        _check_callbacks(resolved, session)
        if isinstance(resolved.components.env.cls, EnvFunction):  # may return one environment twice: not at the end
            with preserve_rng_state():
                refuse_lone_environment(resolved)
        snapshot = restore_continued(resolved, session.model, session.saved_callbacks)
        with limit_torch_threads(session.model):  # environment.json has the threads that training uses
            run = RunDirectory.create(resolved, out)
        remember_trusted_code(resolved)
        with run.lock():
            copy_logs(resolved, run.directory)
            session.rebuild_callbacks(run.directory)
            _run_training(session, run, SnapshotStore(run.directory, run.config), snapshot)
    return run


def resume(run: RunDirectory, callbacks: Sequence[BaseCallback] = (), *, progress_bar: bool = False) -> RunDirectory:
    """Resume a stopped or killed run from its latest valid snapshot; without one, start from the beginning.

    At the end all files are the same as if the run had never been stopped, except for wall-clock times.

    :param callbacks: the callbacks that were passed to :func:`train`
    :param progress_bar: whether to show a progress bar if the config has none
    :raises RunError: if the run has ended, another process trains in it, or its snapshot belongs to another run
    :raises ConfigError: if something in its config cannot be built
    :raises TrainingError: if training fails; the status in the run directory is then ``failed``
    """
    with run.lock():
        _check_resumable(run)
        changed_code = [f"{path} has changed" for path in run.list_changed_code(run.resolved_config)]
        for difference in [*run.version_differences(), *changed_code]:
            _log.warning("%s: the run may continue differently", difference)
        if missing := describe_missing_device(run.resolved_config):
            _log.warning("%s", missing)
        run.refuse_links()
        displays = _progress_display(run.config, progress_bar)
        with _open_session(run.resolved_config, callbacks, displays, run.directory) as session:
            run.remove_leftovers()
            snapshots = SnapshotStore(run.directory, run.config)
            snapshot = snapshots.latest_valid()
            if snapshot is None:
                _log.warning("%s: has no valid snapshot; training starts from the beginning", run.directory)
                shutil.rmtree(run.directory / "tensorboard", ignore_errors=True)
                (run.directory / "progress.csv").unlink(missing_ok=True)
                run.record_code(run.resolved_config)
                load_start(run.resolved_config, session.model)
                snapshot = restore_continued(run.resolved_config, session.model, session.saved_callbacks)
                copy_logs(run.config, run.directory)
            else:
                for text in training_state.restore_before_learning(session.model, session.saved_callbacks, snapshot):
                    _log.warning("%s", text)
            _remove_result(run)
            _run_training(session, run, snapshots, snapshot)
    return run


def train_or_resume(config: RunConfig, out: Path, hint: str, *, progress_bar: bool = False) -> RunDirectory:
    """Train a config in a run directory, resume the run that is in it, or leave it as it is if it has ended.

    :param config: the user's own, whose code may run
    :param hint: what to do if the directory holds something else than a run of this config
    :param progress_bar: whether to show a progress bar if the config has none
    :raises RunError: if it does, its code has changed, or another process trains in it
    :raises ConfigError: if something in the config cannot be built
    :raises TrainingError: if training fails; the status in the run directory is then ``failed``
    """
    if not has_started(out, config, hint):
        return train(config, out, progress_bar=progress_bar)
    run = RunDirectory(out, config)
    changed = run.list_changed_code(run.resolved_config)
    if not changed:
        remember_trusted_code(run.resolved_config)  # it may have started on another machine
    if has_ended(out):
        _log.info("%s: has ended: there is nothing left to train", out)
        return run
    if changed:
        hint = f"restore it, or {hint}; `toolkit resume --trust` runs the new code"
        raise RunError(f"{changed[0]}: has changed since {out} started", hint)
    return resume(run, progress_bar=progress_bar)


def dry_run(config: RunConfig, is_local: bool = True) -> EpisodeNumbers | None:
    """Build everything that training needs, and close it again.

    :param is_local: whether training will run on this machine, which then needs the config's device
    :return: what callbacks log of an episode, for :func:`toolkit.envs.trial.try_environment`; None if they log nothing
    :raises ConfigError: if something in the config cannot be built, or does not fit together
    """
    resolved = resolve_config(config)
    if is_local:
        refuse_missing_device(resolved)
    try_rewards(resolved)
    with _open_session(resolved, ()) as session:
        _check_callbacks(resolved, session)
        refuse_lone_environment(resolved)
        return session.env.numbers


def _check_callbacks(config: ResolvedConfig, session: _Session) -> None:
    """Let the callbacks of the config, and those that Python passed, check that they fit the run.

    :raises ConfigError: with every problem
    """
    outermost = [*session.config_callbacks, *session.passed_callbacks]
    plan = RunPlan(config, session.model, [item for callback in outermost for item in iterate_nested(callback)])
    places: list[tuple[KeyPath, str]] = [(component.path, component.name) for component in config.components.callbacks]
    for index, callback in enumerate(session.passed_callbacks):
        places.append(((f"callbacks[{index}] of toolkit.train",), type(callback).__name__))
    problems = [
        problem
        for (path, name), callback in zip(places, outermost, strict=True)
        for problem in find_callback_problems(path, callback, plan, name)
    ]
    if any(problem.path[0] == "callbacks" for problem in problems):
        raise config.make_error(problems)
    if problems:
        raise ConfigError(problems)


def _check_resumable(run: RunDirectory) -> None:
    status = (run.result or {}).get("status")
    if status in ENDED:
        hint = "`toolkit continue` trains it for more timesteps"
        raise RunError(f"{run.directory}: has ended ({status}) and cannot be resumed", hint)
    if run.model_path.exists() and not (run.directory / "monitor.csv").exists():
        raise RunError(f"{run.directory}: holds a model that was trained elsewhere, and cannot be resumed")


def _remove_result(run: RunDirectory) -> None:
    """Delete what an earlier training wrote at its end."""
    try:
        for name in ("result.json", "traceback.txt", actions_csv.NAME):
            (run.directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{run.directory}: cannot be written to: {error.strerror}") from error


def _progress_display(config: RunConfig, progress_bar: bool) -> list[BaseCallback]:
    """Return the callback that shows progress, unless nobody asks for it or the config has it."""
    has_display = any(callback.name == "progress" for callback in config.callbacks)
    return [find(KINDS["callbacks"], "progress")()] if progress_bar and not has_display else []


@dataclass
class _Session:
    """The live objects of one training.

    :ivar first_weights: hash of the weights before training; a resumed run is built with the same ones
    :ivar config_callbacks: those of the config, in its order
    :ivar passed_callbacks: those that Python passed
    :ivar displays: those that only show progress or warn
    """

    config: ResolvedConfig
    env: EpisodeRecorder
    evaluation_env: EvaluationEnv
    model: BaseAlgorithm
    first_weights: str
    monitor_writer: MonitorCsvWriter
    config_callbacks: list[BaseCallback]
    passed_callbacks: Sequence[BaseCallback]
    displays: list[BaseCallback]

    @property
    def saved_callbacks(self) -> list[BaseCallback]:
        """The callbacks whose state is in a snapshot; a resume may show progress where the training before did not."""
        return [self.monitor_writer, *self.config_callbacks, *self.passed_callbacks]

    @property
    def callbacks(self) -> list[BaseCallback]:
        """All callbacks, in the order in which they are called."""
        seed, others = derived_seed(self.config.seed, "callback"), list_own_eval_envs(self.saved_callbacks)
        guard = EvaluationGuard(self.evaluation_env, others, seed)
        guarded: list[BaseCallback] = []
        for callback in self.saved_callbacks:
            guarded += [callback, guard] if has_evaluation_env(callback) else [callback]
        return [*guarded, *self.displays]

    @property
    def run_callbacks(self) -> list[RunCallback]:
        callbacks = [*self.saved_callbacks, *self.displays]
        return [item for callback in callbacks for item in iterate_nested(callback) if isinstance(item, RunCallback)]

    @property
    def criterion(self) -> SuccessCriterion | None:
        """The run's success criterion, also one that Python passed."""
        return next((item for item in self.run_callbacks if isinstance(item, SuccessCriterion)), None)

    def rebuild_callbacks(self, run: Path) -> None:
        """Build the callbacks again that name the run directory, which exists now."""
        rebuilt = {}
        for index in list_callbacks_with_run(self.config):
            nested = iterate_nested(self.config_callbacks[index])
            _close([callback for callback in nested if isinstance(callback, RunCallback)])
            rebuilt[index] = build_config_callback(self.config, index, self.evaluation_env, run)
            self.config_callbacks[index] = rebuilt[index]
        prepare_eval_callbacks(self.config, self.model, rebuilt, ())

    def close(self) -> None:
        """Close the callbacks, the last one first, and the environments."""
        _close([*reversed(self.run_callbacks), self.evaluation_env, self.env])


def _close(resources: Sequence[RunCallback | EvaluationEnv | EpisodeRecorder]) -> None:
    for resource in resources:
        try:
            resource.close()
        except Exception as error:  # training is over, and the others must be closed as well
            _log.warning("%s does not close: %s", type(resource).__name__, describe_error(error))


@contextmanager
def _open_session(
    config: ResolvedConfig,
    callbacks: Sequence[BaseCallback],
    displays: Sequence[BaseCallback] = (),
    run: Path | None = None,
) -> Iterator[_Session]:
    """Build what training needs, and close it at the end.

    :param run: the run directory; without one, ``{run}`` in the parameters of callbacks names a temporary directory
    """
    directory = run or Path(mkdtemp())
    with nullcontext() if run else _show_run_in_errors(config, directory):
        try:
            session = _build_session(config, callbacks, [*displays], directory, run is None)
        finally:
            if run is None:
                shutil.rmtree(directory, ignore_errors=True)
        try:
            yield session
        finally:
            session.close()


@contextmanager
def _show_run_in_errors(config: ResolvedConfig, directory: Path) -> Iterator[None]:
    """Put ``{run}`` in place of the directory that it names into errors about the config."""
    try:
        yield
    except ConfigError as error:
        problems = [show_run(problem, directory) for problem in error.problems]
        if problems == [*error.problems]:
            raise
        raise config.make_error(problems) from error.__cause__


def _build_session(
    config: ResolvedConfig, callbacks: Sequence[BaseCallback], displays: list[BaseCallback], run: Path, is_new: bool
) -> _Session:
    seed = derived_seed(config.seed, "training")
    seed_global_generators(seed)  # the model seeds them again
    env = make_vec_env(config, seed=seed, traces_rewards=logs_rewards(config, callbacks))
    env.hides_monitor = bool(config.env.wrappers)
    evaluation_env: EvaluationEnv | None = None
    try:
        env.env_method("watch_generators", indices=[0])  # the others are like it
        model = build_model(config, env, seed=seed)
        if is_new:
            load_start(config, model)
        if not training_state.can_resume(model) and hasattr(model, "n_eval_episodes"):  # of ARS, for each candidate
            env.limit_episodes(model.n_eval_episodes)
        env.get_timesteps = lambda: model.num_timesteps + env.num_envs  # SB3 adds a step after it is taken
        keep_recent_steps(env)
        trace_values(env, model, config.timesteps)
        refuse_unfit_normalization(config, model)
        refuse_missing_masks(config, model)
        log_space_warnings(config, model)
        evaluation_env = EvaluationEnv(config, model)
        refuse_unfit_callbacks(config)
        indices = range(len(config.callbacks))
        config_callbacks = [build_config_callback(config, index, evaluation_env, run) for index in indices]
        log_info(config, env, config_callbacks, callbacks)
        nested = [item for callback in [*config_callbacks, *callbacks] for item in iterate_nested(callback)]
        if sum(isinstance(callback, SuccessCriterion) for callback in nested) > 1:
            raise config.make_error([Problem(("callbacks",), "a run has at most one success criterion")])
        prepare_eval_callbacks(config, model, dict(enumerate(config_callbacks)), callbacks)
        monitor_writer = MonitorCsvWriter(env)
        first_weights = hash_weights(model)
        continues = config.start_from is not None and config.start_from.continues
        if not (continues or find_obstacles_to_learning(config)):  # then it is known from the start
            displays = [*displays, HalfTimeCheck(config.timesteps, first_weights)]
        return _Session(
            config, env, evaluation_env, model, first_weights, monitor_writer, config_callbacks, callbacks, displays
        )
    except BaseException:
        _close([env] if evaluation_env is None else [evaluation_env, env])
        raise


def _run_training(
    session: _Session, run: RunDirectory, snapshots: SnapshotStore, snapshot: dict[str, Any] | None
) -> None:
    """Train, from a snapshot if there is one, and write the result however training ends."""
    place_files(session.config_callbacks, run.directory)
    env, is_resumed = session.env, snapshot is not None
    evaluations = EvaluationLog(run, is_resumed=is_resumed)
    stages = [callback for callback in session.run_callbacks if isinstance(callback, StageCallback)]
    context = TrainingContext(run, env.episodes, session.criterion, env.parameters, is_resumed, evaluations, stages)
    for callback in session.run_callbacks:
        callback.context = context
        callback.before_first_reset()
    status = "finished"
    failure: BaseException | None = None
    stopped_by: int | None = None
    guard = SignalGuard(defer_first=training_state.can_resume(session.model))
    with guard.installed():
        try:
            _learn(session, run, snapshots, guard, snapshot)
        except (KeyboardInterrupt, InterruptedTraining) as error:
            status, stopped_by = "interrupted", getattr(error, "signal", signal.SIGINT)
        except (Exception, SystemExit) as error:
            status, failure = "failed", error
        if status == "finished" and session.criterion and session.criterion.success:
            status = "success"
        _warn_of_held_episodes(session.env)
        with guard.deferred():
            failure = _write_end(session, run, status, failure)
    run.stopped_by = guard.pending if stopped_by is None else stopped_by
    if failure:
        message = f"training failed at timestep {session.model.num_timesteps}: {describe_error(failure)}"
        hints = [suggest_base_wrappers(failure), f"the traceback is in {run.directory / 'traceback.txt'}"]
        raise TrainingError(message, "; ".join(filter(None, hints))) from failure


def _warn_of_held_episodes(env: EpisodeRecorder) -> None:
    if env.n_held > len(env.episodes):
        message = "%d episodes ended and do not count: one that started no later still runs; see env.max_episode_steps"
        _log.warning(message, env.n_held)


def _learn(
    session: _Session,
    run: RunDirectory,
    snapshots: SnapshotStore,
    guard: SignalGuard,
    snapshot: dict[str, Any] | None,
) -> None:
    """Call the algorithm's ``learn`` for the remaining timesteps."""
    model = session.model
    hook = RolloutHook(model, session.saved_callbacks, session.env.episodes.mean_return, snapshots, guard, snapshot)
    callbacks, log_interval = session.callbacks, default_log_interval(model)
    is_on_policy = isinstance(model, OnPolicyAlgorithm)
    if is_on_policy:
        callbacks = [*callbacks, IterationLogger(log_interval, hook.rollouts)]
    callback_list = RunCallbackList(callbacks, hook)
    logger = make_logger(run, session.env, model)
    model.set_logger(logger)
    try:
        form = accelerated(model) if run.config.algorithm.accelerate else nullcontext()
        with limit_torch_threads(model), form:
            model.learn(
                run.config.timesteps - model.num_timesteps,
                callback=callback_list,
                log_interval=None if is_on_policy else log_interval,  # type: ignore[arg-type]  # SB3 checks for None
                reset_num_timesteps=not (hook.is_resumed or model.num_timesteps),
            )
    except StopTraining:
        callback_list.on_training_end()
    finally:
        logger.close()


def _diagnose(session: _Session, timesteps: int) -> str | None:
    return diagnose_training(session.model, session.env, timesteps, session.first_weights, session.criterion)


def _write_end(
    session: _Session, run: RunDirectory, status: str, failure: BaseException | None
) -> BaseException | None:
    """Save the model and the result; return the failure of training or of saving."""
    try:
        save_model(run, session.model)
    except Exception as error:
        if status == "interrupted":  # a second signal stops at once, maybe in the middle of a step
            _log.warning("the model is not saved: %s", describe_error(error))
        else:
            status, failure = "failed", failure or error
    episodes = session.env.episodes
    result = {
        "status": status,
        "seed": run.config.seed,
        "timesteps": session.model.num_timesteps,
        "episodes": len(episodes),
        "seconds": round(session.monitor_writer.seconds, 3),
        "mean_return": episodes.mean_return(),
        "success": session.criterion.report() if session.criterion else None,
    }
    if status in ENDED and (text := _diagnose(session, run.config.timesteps)):
        result["diagnosis"] = text
    steps = session.env.recent_steps
    actions = "" if steps is None else actions_csv.format_actions(steps.count_action_ranges())
    try:
        if actions:
            run.write(actions_csv.NAME, actions)
        run.write("result.json", json.dumps(result, indent=2) + "\n")
        if failure:
            run.write("traceback.txt", "".join(traceback.format_exception(failure)))
    except OSError as error:
        message = f"{run.directory}: the result cannot be written: {error.strerror}"
        raise TrainingError(message, describe_error(failure) if failure else "") from failure or error
    return failure
