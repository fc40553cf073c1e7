"""The environment that callbacks of a config evaluate in, where the config gives them no other."""

from __future__ import annotations

from collections.abc import Sequence

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from toolkit.config.load import ResolvedConfig
from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.envs.wrapper_state import capture_wrapper_states, load_wrapper_states
from toolkit.snapshots.object_kinds import is_stateless_env
from toolkit.snapshots.rng import (
    GeneratorStates,
    get_generator_states,
    preserve_rng_state,
    seed_global_generators,
    set_generator_states,
)
from toolkit.utils.callbacks import iterate_nested
from toolkit.utils.seeds import derive_run_seed


class EvaluationEnv:
    """One environment of a config in this process, built when it is first needed and shared by all callbacks.

    Its first reset at a timestep starts an evaluation. The wrappers then have what those of training have learned.
    The episodes follow from the run's seed and the timestep, so they are the same after a resume. Returns are raw.
    The global generators are seeded for the evaluation, and :meth:`end_evaluation` restores those of training.
    """

    def __init__(self, config: ResolvedConfig, model: BaseAlgorithm) -> None:
        self._config = config
        self._model = model
        self._seed = derived_seed(config.seed, "callback")
        self._timestep: int | None = None  # of the last evaluation
        self._training_generators: GeneratorStates | None = None  # during an evaluation
        self.venv: EpisodeRecorder | None = None

    def build(self) -> EpisodeRecorder:
        """Return the environment.

        :raises ConfigError: if it cannot be built
        """
        if self.venv is None:
            with preserve_rng_state():
                self.venv = make_vec_env(self._config, seed=self._seed, n_envs=1, wrap=limit_episode_steps)
            self.venv.before_reset, self.venv.is_stateless = self._begin_evaluation, True
        return self.venv

    def end_evaluation(self) -> None:
        """Restore the global generators of training, if an evaluation was played."""
        if self._training_generators is not None:
            set_generator_states(self._training_generators)
            self._training_generators = None

    def close(self) -> None:
        """Close the environment, if it was built."""
        if self.venv is not None:
            self.venv.close()

    def _begin_evaluation(self) -> None:
        training_env = self._model.get_env()
        if self.venv is None or training_env is None:
            return
        if self._training_generators is None:  # also where another callback has evaluated at this timestep
            self._training_generators = get_generator_states()
        if self._timestep == self._model.num_timesteps:
            return
        self._timestep = self._model.num_timesteps
        load_wrapper_states(self.venv, capture_wrapper_states(training_env))
        seed = derive_run_seed(self._seed, self._timestep)
        self.venv.seed(seed)
        seed_global_generators(seed)
        self.venv.episodes.replace([])


def has_evaluation_env(callback: BaseCallback) -> bool:
    """Return whether a callback, or one that it holds, has an environment to evaluate in."""
    nested = [*iterate_nested(callback)]
    values = [value for item in nested for value in vars(item).values()]
    return any(isinstance(item, EvalCallback) for item in nested) or any(map(is_stateless_env, values))


class EvaluationGuard(BaseCallback):
    """Keeps evaluations and training apart, and lets evaluations repeat.

    It comes after each callback that may evaluate, and ends an evaluation in the config's environment. Another
    evaluation environment that has no seed gets one.
    """

    def __init__(self, env: EvaluationEnv, others: Sequence[VecEnv], seed: int) -> None:
        super().__init__()
        self._env = env
        self._others = others
        self._seed = seed

    def _on_training_start(self) -> None:
        self._env.end_evaluation()
        for venv in self._others:
            if all(seed is None for seed in venv.unwrapped._seeds):
                venv.seed(self._seed)

    def _on_rollout_start(self) -> None:
        self._env.end_evaluation()

    def _on_step(self) -> bool:
        self._env.end_evaluation()
        return True

    def _on_rollout_end(self) -> None:
        self._env.end_evaluation()

    def _on_training_end(self) -> None:
        self._env.end_evaluation()
