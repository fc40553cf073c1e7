"""Callbacks that end training."""

from __future__ import annotations

from toolkit import RunCallback


class StopOnPlateau(RunCallback):
    """Ends training when the mean raw return has stopped rising.

    Its attributes are plain numbers, so a resumed run ends at the same step as an uninterrupted one.

    :param patience: number of training episodes without a new highest mean, at least 1
    :param episodes: number of last training episodes in the mean, at least 1
    :raises ValueError: if one of them is below 1
    """

    def __init__(self, patience: int = 200, episodes: int = 50) -> None:
        if patience < 1 or episodes < 1:
            raise ValueError(f"patience and episodes must be at least 1, not {patience} and {episodes}")
        super().__init__()
        self.patience = patience
        self.episodes = episodes
        self._n_episodes = 0
        self._best_mean: float | None = None
        self._best_episode = 0

    def _on_step(self) -> bool:
        # several environments may end an episode in the same step
        while self._n_episodes < len(self.context.episodes):
            self._n_episodes += 1
            self._update_best_mean()
            if self._best_mean is not None and self._n_episodes - self._best_episode >= self.patience:
                return False
        return True

    def _update_best_mean(self) -> None:
        if self._n_episodes < self.episodes:
            return
        window = self.context.episodes[self._n_episodes - self.episodes : self._n_episodes]
        mean = sum(episode.raw_return for episode in window) / self.episodes
        if self._best_mean is None or mean > self._best_mean:
            self._best_mean, self._best_episode = mean, self._n_episodes
