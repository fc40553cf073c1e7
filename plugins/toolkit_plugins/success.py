"""When training has succeeded."""

from __future__ import annotations

from toolkit.envs.factory import derived_seed
from toolkit.evaluation.rollout import limit_episode_steps, open_greedy_env, play_greedy_episodes
from toolkit.training.callbacks import Success, SuccessCriterion
from toolkit.utils.data import compute_mean


class MeanReturnSuccess(SuccessCriterion):
    """Stop when the mean raw return of the last training episodes reaches a threshold.

    Episodes of all environments count in the order of their start. One counts once every episode that started before
    it, or in the same step, has ended. Otherwise short episodes would fill the window first. The window must be full.
    Gym's own definition of solved is 195 over 100 episodes for CartPole-v0.

    :param threshold: mean raw return to reach
    :param episodes: size of the window, at least 1
    :param min_timesteps: environment steps before which training never stops
    :param confirm_episodes: if not 0, the greedy policy must reach the threshold too, on average over this many
        episodes on its own environment. If it does not, training continues, and the next check comes after as
        many further training episodes
    """

    def __init__(
        self, threshold: float, episodes: int = 100, min_timesteps: int = 0, confirm_episodes: int = 0
    ) -> None:
        for name, value, minimum in (
            ("episodes", episodes, 1),
            ("min_timesteps", min_timesteps, 0),
            ("confirm_episodes", confirm_episodes, 0),
        ):
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, not {value}")
        super().__init__(threshold, episodes)
        self.min_timesteps = min_timesteps
        self.confirm_episodes = confirm_episodes
        self._seen = 0
        self._ask_again_at = 0

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of the last ``episodes`` episodes that were judged; None before any."""
        return self.context.episodes.mean_return(self.episodes, end=self._seen)

    def _on_step(self) -> bool:
        for episode in self.context.episodes[self._seen :]:
            self._seen += 1
            mean_return = self.mean_return
            if mean_return is not None and self._is_met(mean_return):
                self.success = Success(self._seen, self.num_timesteps, round(episode.seconds, 3), mean_return)
                return False
        return True

    def _is_met(self, mean_return: float) -> bool:
        if self._seen < self.episodes or self.num_timesteps < self.min_timesteps:
            return False
        return mean_return >= self.threshold and self._is_confirmed()

    def _is_confirmed(self) -> bool:
        if not self.confirm_episodes:
            return True
        if self._seen < self._ask_again_at:
            return False
        self._ask_again_at = self._seen + self.confirm_episodes
        config = self.context.run.resolved_config
        seed = derived_seed(config.seed, "confirmation")
        with open_greedy_env(config, seed=seed, n_envs=1, wrap=limit_episode_steps) as env:
            returns = play_greedy_episodes(self.model, env, self.confirm_episodes)
        return compute_mean(returns) >= self.threshold
