"""When training has gone on for long enough."""

from __future__ import annotations

from toolkit import RunCallback


class StopOnPlateau(RunCallback):
    """Ends training when the mean raw return has not risen for some time.

    What it remembers are plain numbers, so a run that is stopped and resumed ends where it would have ended.

    :param patience: after so many training episodes without a new highest mean, at least 1
    :param episodes: the mean is that of so many last training episodes, at least 1, and counts once there are so many
    :raises ValueError: if one of them is below 1
    """

    def __init__(self, patience: int = 200, episodes: int = 50) -> None:
        if patience < 1 or episodes < 1:
            raise ValueError(f"patience and episodes must be at least 1, not {patience} and {episodes}")
        super().__init__()
        self.patience = patience
        self.episodes = episodes
        self._seen = 0
        self._best: float | None = None
        self._best_at = 0

    def _on_step(self) -> bool:
        # Several environments may end episodes in one step, and most steps end none.
        while self._seen < len(self.context.episodes):
            self._seen += 1
            self._take_down()
            if self._best is not None and self._seen - self._best_at >= self.patience:
                return False
        return True

    def _take_down(self) -> None:
        if self._seen < self.episodes:
            return
        window = self.context.episodes[self._seen - self.episodes : self._seen]
        mean = sum(episode.raw_return for episode in window) / self.episodes
        if self._best is None or mean > self._best:
            self._best, self._best_at = mean, self._seen
