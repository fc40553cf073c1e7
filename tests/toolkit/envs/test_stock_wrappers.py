"""A config names Gymnasium's own wrappers by their import path."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit import load_config, train


@pytest.mark.parametrize(
    "wrapper",
    [
        "{name: 'gymnasium.wrappers:RescaleAction', params: {min_action: -1, max_action: 1.0}}",
        "{name: 'gymnasium.wrappers:RescaleObservation', params: {min_obs: [-1, -1, -1], max_obs: [1, 1, 1]}}",
        "{name: 'gymnasium.wrappers:FrameStackObservation', params: {stack_size: 3}}",
        "{name: 'gymnasium.wrappers:TimeLimit', params: {max_episode_steps: 20}}",
        "{name: 'gymnasium.wrappers:ClipReward', params: {min_reward: -1}}",
        "gymnasium.wrappers:NormalizeReward",
    ],
)
@pytest.mark.filterwarnings("ignore:.*precision lowered.*", "ignore:.*A Box observation space.*")
def test_gymnasium_wrapper_trains_by_import_path(wrapper: str) -> None:
    algorithm = "{name: ppo, params: {n_steps: 32, batch_size: 32}}"
    Path("c.yaml").write_text(
        f"timesteps: 64\nenv: {{id: Pendulum-v1, wrappers: [{wrapper}]}}\nalgorithm: {algorithm}\n"
    )
    result = train(load_config("c.yaml")).result
    assert result is not None
    assert result["status"] == "finished"
