"""Evaluations of the model during training, on environments of their own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from zlib import crc32

from stable_baselines3.common.utils import check_for_correct_spaces

from toolkit.config.components import locate_override
from toolkit.config.env_overrides import EnvOverrides
from toolkit.config.load import ResolvedConfig, resolve_config
from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.factory import derived_seed
from toolkit.envs.parameters import select_values
from toolkit.envs.wrapper_state import find_recorder, select_wrapper_states
from toolkit.evaluation.evaluate import Evaluation, evaluate_model
from toolkit.evaluation.rollout import check_episodes, open_greedy_env, play_on_one_env
from toolkit.training.callbacks import EvaluationCallback, RunPlan
from toolkit.training.evaluations import PlayedEpisodes, RecordedEvaluation, check_label
from toolkit.training.model import remove_best_model, save_best_model
from toolkit.utils.errors import ConfigError, Problem
from toolkit.utils.seeds import derive_run_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

_DEFAULT_INTERVAL = 10_000  # timesteps
_log = logging.getLogger("toolkit")


class EvaluateCallback(EvaluationCallback):
    """Evaluate the model at intervals, on its own environments and seeds; this never changes training.

    Returns are raw, and wrappers have what those of training have learned so far. `evaluations.csv` in the run
    directory has a row for each evaluation; the log has `eval/LABEL/mean_return`.

    :param label: names the evaluation: letters, digits, `_`, `.` and `-`
    :param every_timesteps: evaluate after every so many environment steps; 10,000 if `every_episodes` is not given
    :param every_episodes: evaluate each time that so many more training episodes count
    :param episodes: number of whole episodes of an evaluation, at least 1
    :param env: what differs from the config's `env`, with its keys `id`, `params`, `max_episode_steps`,
        `reset_options`, `base_wrappers` and `wrappers`; mappings merge, lists replace, another `id` drops `params`
    :param deterministic: whether the policy acts greedily; false draws its actions, as in training
    :param patience: stop training after so many evaluations without a new best mean return; the best starts anew
        with each stage of a curriculum
    :param keep_best: save the model as `best/model.zip`, with the statistics of its wrappers, at each new best mean
        return; one evaluation of a run may do so
    """

    def __init__(  # noqa: PLR0913 - options are keywords
        self,
        label: str = "greedy",
        *,
        every_timesteps: int | None = None,
        every_episodes: int | None = None,
        episodes: int = 10,
        env: EnvOverrides | None = None,
        deterministic: bool = True,
        patience: int | None = None,
        keep_best: bool = False,
    ) -> None:
        super().__init__(check_label(label), check_episodes(episodes))
        if every_timesteps is not None and every_episodes is not None:
            raise ValueError("give either every_timesteps or every_episodes")
        if every_timesteps is None and every_episodes is None:
            every_timesteps = _DEFAULT_INTERVAL
        for name, count in (
            ("every_timesteps", every_timesteps),
            ("every_episodes", every_episodes),
            ("patience", patience),
        ):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, not {count}")
        self.every_timesteps = every_timesteps
        self.every_episodes = every_episodes
        self.env = EnvOverrides.model_validate(env) if isinstance(env, Mapping) else env
        self.deterministic = deterministic
        self.patience = patience
        self.keep_best = keep_best
        self._n_intervals = 0
        self._n_without_best = 0
        self._first_comparable = 0  # evaluation: those before it had other values of parameters
        self._parameters: dict[str, Any] = {}  # that callbacks have chosen for the latest evaluation
        self._warned: set[str] = set()

    def check_run(self, plan: RunPlan) -> None:
        """Check that no other evaluation has the label or keeps the best model, and the model fits its environment.

        :raises ConfigError: if not
        """
        for callback in plan.evaluations[: plan.evaluations.index(self)]:
            if callback.label == self.label:
                message = f"another evaluation has the label '{self.label}'"
                raise ConfigError([Problem(("params", "label"), message, "give each its own")])
            if self.keep_best and isinstance(callback, EvaluateCallback) and callback.keep_best:
                message = f"the evaluation '{callback.label}' keeps the best model already"
                raise ConfigError([Problem(("params", "keep_best"), message, "set it for one of them")])
        self._check_env(plan.config, plan.model)

    def _check_env(self, config: ResolvedConfig, model: BaseAlgorithm) -> None:
        if self.env is None:
            return
        with (
            _locating_overrides(),
            open_greedy_env(self._make_config(config), seed=0, n_envs=1, wrap=limit_episode_steps) as env,
        ):
            training_env = find_recorder(model.get_env()) or model
            try:
                check_for_correct_spaces(env, training_env.observation_space, training_env.action_space)
            except ValueError as error:
                message = f"the model cannot act in this environment: {error}"
                hint = "keep the wrappers that make observations and actions"
                raise ConfigError([Problem(("params", "env"), message, hint)]) from error

    def _make_config(self, config: ResolvedConfig) -> ResolvedConfig:
        """Return the config of the environments to evaluate in."""
        return config if self.env is None else resolve_config(self.env.apply_to(config))

    def state_dict(self) -> dict[str, Any]:
        """Return the evaluations so far, and how many intervals have passed."""
        return {
            "intervals": self._n_intervals,
            "without_best": self._n_without_best,
            "first_comparable": self._first_comparable,
            "parameters": self._parameters,
            "evaluations": self.context.evaluations.state_dict(self.label),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._n_intervals, self._n_without_best = state["intervals"], state["without_best"]
        self._first_comparable = state.get("first_comparable", 0)  # earlier versions compared all
        self._parameters = state.get("parameters", {})
        self.context.evaluations.load_state_dict(self.label, state["evaluations"])

    def _on_training_start(self) -> None:
        config = self.context.run.resolved_config
        self._config = self._make_config(config)
        self._new_wrappers = _list_new_wrappers(config, self._config)
        self._seed = derive_run_seed(derived_seed(self._config.seed, "callback"), crc32(self.label.encode()))
        self.context.evaluations.register(self.label, None if self.env is None else self._play_greedily)
        if self.keep_best and not self.context.is_resumed:
            remove_best_model(self.context.run)

    def _on_step(self) -> bool:
        # several environments can step over a multiple: it counts once, when they have passed it
        if self.every_timesteps is not None:
            n_intervals = self.num_timesteps // self.every_timesteps
        else:
            n_intervals = len(self.context.episodes) // (self.every_episodes or 1)
        if n_intervals <= self._n_intervals:
            return True
        self._n_intervals = n_intervals
        self._evaluate()
        return self._has_patience()

    def _on_training_end(self) -> None:
        if self.context.evaluations.latest(self.label) is None:
            if self.every_timesteps is not None:
                reason = f"every_timesteps is {self.every_timesteps:,}, and training ended at {self.num_timesteps:,}"
            else:
                n_episodes = len(self.context.episodes)
                reason = f"every_episodes is {self.every_episodes:,}, and training ended with {n_episodes:,} episodes"
            _log.warning("evaluation '%s': did not take place: %s", self.label, reason)

    def _select_states(self, venv: VecEnv, states: dict[str, Any]) -> dict[str, Any]:
        """Leave out the states of wrappers that the environments to evaluate in have otherwise, or not at all."""
        is_same_env = self.env is None or not self.env.replaces_env
        selected = select_wrapper_states(venv, states, new=self._new_wrappers, is_same_env=is_same_env)
        return selected | {"parameters": self._select_shared(states["parameters"])}

    def _select_shared(self, values: dict[str, Any]) -> dict[str, Any]:
        """Leave out the parameters that the environments to evaluate in have otherwise, or not at all."""
        own = {f"env.params.{name}" for name in (self.env.params if self.env else ())}
        values = {path: value for path, value in values.items() if path not in own}
        return select_values(values, self.context.run.resolved_config, self._config)

    def _is_final(self) -> bool:
        """Return whether an evaluation is of the run's task: no stage to come changes its environments."""
        paths = [path for callback in self.context.stages for path in callback.paths]
        return self.context.first_episode_of_task is not None or not self._select_shared(dict.fromkeys(paths))

    def _evaluate(self) -> None:
        result = evaluate_model(
            self.model,
            self._config,
            self.episodes,
            derive_run_seed(self._seed, self.num_timesteps),
            self._warn_once,
            deterministic=self.deterministic,
            select_states=None if self.env is None else self._select_states,
        )
        log, parameters = self.context.evaluations, self._select_shared(self.context.parameters.state_dict())
        if parameters != self._parameters:  # a return in another stage of a curriculum says nothing about this one
            self._parameters, self._first_comparable, self._n_without_best = parameters, log.count(self.label), 0
        best = log.best(self.label, self._first_comparable)
        log.add(_record(self.num_timesteps, self.label, result), is_final=self._is_final())
        self.logger.record(f"eval/{self.label}/mean_return", result.mean_return)
        self.logger.record(f"eval/{self.label}/mean_length", sum(result.lengths) / self.episodes)
        if result.success_rate is not None:
            self.logger.record(f"eval/{self.label}/success_rate", result.success_rate)
        is_best = best is None or result.mean_return > best.mean_return
        self._n_without_best = 0 if is_best else self._n_without_best + 1
        if is_best and self.keep_best:
            save_best_model(self.context.run, self.model)

    def _play_greedily(self, episodes: int, seed: int) -> PlayedEpisodes:
        return play_on_one_env(self.model, self._config, episodes, seed, self._select_states)

    def _has_patience(self) -> bool:
        if self.patience is None or self._n_without_best < self.patience:
            return True
        message = "evaluation '%s': %d evaluations without a new best mean return: training stops at timestep %d"
        _log.info(message, self.label, self._n_without_best, self.num_timesteps)
        return False

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            _log.warning("evaluation '%s': %s", self.label, text)


def _list_new_wrappers(config: ResolvedConfig, changed: ResolvedConfig) -> set[str]:
    """Return the class names of wrappers whose states do not fit a changed config, because it has other parameters.

    A time limit has nothing else that lasts.
    """
    known = (*config.env.base_wrappers, *config.env.wrappers)
    wrappers = zip(
        (*changed.env.base_wrappers, *changed.env.wrappers),
        (*changed.components.base_wrappers, *changed.components.wrappers),
        strict=True,
    )
    return {"TimeLimit", *(component.cls.__name__ for wrapper, component in wrappers if wrapper not in known)}


@contextmanager
def _locating_overrides() -> Iterator[None]:
    """Let errors about the environment name the parameter that changes it."""
    try:
        yield
    except ConfigError as error:
        problems = [locate_override(problem, ("params", "env")) for problem in error.problems]
        raise ConfigError(problems) from error


def _record(timestep: int, label: str, evaluation: Evaluation) -> RecordedEvaluation:
    return RecordedEvaluation(
        timestep=timestep,
        label=label,
        mean_return=evaluation.mean_return,
        std_return=evaluation.std_return,
        ci95=evaluation.ci95,
        success_rate=evaluation.success_rate,
        returns=evaluation.returns,
        lengths=evaluation.lengths,
    )
