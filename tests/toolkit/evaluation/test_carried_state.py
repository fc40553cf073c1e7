"""What wrappers and policy learned or counted in training goes to evaluation: the agent acts as it did."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_runs import StopAt
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from support import Toolkit

import toolkit as tk
from toolkit.snapshots.capture import capture
from toolkit.snapshots.transfer import transfer
from toolkit.training import trainer
from toolkit.utils.errors import TrainingError

SIZE = N_ENVS = 4  # numbers of an observation, and environments in training
RATE = 0.05  # of running means
STEPS = 20  # of an episode; an agent that sees centred observations returns as much, one that does not returns half


class Shifted(gym.Env[Any, Any]):
    """Shows 1000 or 1005 and rewards the matching action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = gym.spaces.Box(-1e4, 1e4, (SIZE,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.steps = STEPS

    def set_steps(self, steps: int) -> None:
        self.steps = steps

    def _show(self) -> NDArray[np.float32]:
        self.is_up = int(self.np_random.integers(2))
        return np.full(SIZE, 1000 + 5 * self.is_up, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.steps
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        reward = float(action == self.is_up)
        return self._show(), reward, self.left == 0, False, {}

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        return np.zeros((16, 16, 3), np.uint8)


class ShiftedWithOwnState(Shifted):
    """Has the number of steps in an object, and saves it itself."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.task = SimpleNamespace()
        super().__init__(render_mode)

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.task.steps  # type: ignore[no-any-return]

    @steps.setter
    def steps(self, steps: int) -> None:
        self.task.steps = steps

    def state_dict(self) -> dict[str, Any]:
        return vars(self.task).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self.task).update(state)


gym.register("toolkit_tests/Shifted-v0", Shifted)
gym.register("toolkit_tests/ShiftedWithOwnState-v0", ShiftedWithOwnState)


class Mean:
    """A running mean; with a rate it learns too slowly for an evaluation that starts anew."""

    def __init__(self, rate: float = 0.0) -> None:
        self.value, self.count, self.rate = np.zeros(SIZE), 0, rate

    def update(self, observation: NDArray[Any]) -> None:
        self.count += 1
        self.value = self.value + (observation - self.value) * (self.rate or 1 / self.count)


class Centre(gym.ObservationWrapper[Any, Any, Any]):
    """Subtracts a running mean, which is plain attributes."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.mean, self.count = np.zeros(SIZE), 0

    def observation(self, observation: Any) -> Any:
        self.count += 1
        self.mean = self.mean + (observation - self.mean) / self.count
        return (observation - self.mean).astype(np.float32)


class CentreByObject(gym.ObservationWrapper[Any, Any, Any]):
    """Subtracts a running mean, which is an object that the first reset makes."""

    mean: Mean | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.mean is None:
            self.mean = Mean()
        return super().reset(**kwargs)

    def observation(self, observation: Any) -> Any:
        assert self.mean is not None
        self.mean.update(observation)
        return (observation - self.mean.value).astype(np.float32)


class RandomSign(gym.ObservationWrapper[Any, Any, Any]):
    """Centres observations, and keeps or turns their sign as its constructor has drawn."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.sign = int(np.random.default_rng().choice([-1, 1]))

    def observation(self, observation: Any) -> Any:
        return ((observation - 1002.5) * self.sign).astype(np.float32)


class GameOfEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Ends episodes after five steps of a game that continues, as a lost life does in Atari games."""

    is_over, steps, observation = True, 0, None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.is_over:
            self.observation, _ = self.env.reset(**kwargs)
        self.is_over, self.steps = False, 0
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.observation, reward, self.is_over, truncated, info = self.env.step(action)
        self.steps += 1
        return self.observation, reward, self.is_over or self.steps == 5, truncated, info


class VecCentre(VecEnvWrapper):
    """Subtracts a running mean over all environments, and counts the steps of each."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.mean = np.zeros(SIZE)
        self.steps = np.zeros(venv.num_envs)

    def reset(self) -> Any:
        return self._centre(self.venv.reset())

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps += ~dones
        return self._centre(observations), rewards, dones, infos

    def _centre(self, observations: Any) -> Any:
        for observation in observations:
            self.mean = self.mean + RATE * (observation - self.mean)
        return (observations - self.mean).astype(np.float32)


class LateVecCentre(VecCentre):
    """The same, with an object and an array for each environment that the first reset makes."""

    running: Mean | None = None

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.steps = None  # type: ignore[assignment]

    def _centre(self, observations: Any) -> Any:
        if self.running is None:
            self.running, self.steps = Mean(RATE), np.zeros(self.num_envs)
        for observation in observations:
            self.running.update(observation)
        return (observations - self.running.value).astype(np.float32)


class OffsetPolicy(ActorCriticPolicy):
    """Subtracts a number that a callback changes."""

    offset = 0.0

    def get_distribution(self, obs: Any) -> Any:
        return super().get_distribution(obs - self.offset)


class ArrayExtractor(FlattenExtractor):
    """Subtracts a running mean, which is a NumPy array."""

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space)
        self.mean = np.zeros(SIZE, np.float32)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        for observation in observations:
            self.mean = self.mean + RATE * (observation.numpy() - self.mean)
        return observations - torch.from_numpy(self.mean)


class BufferExtractor(FlattenExtractor):
    """Subtracts a running mean, which is a buffer outside the state dict."""

    mean: torch.Tensor

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space)
        self.register_buffer("mean", torch.zeros(SIZE), persistent=False)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        for observation in observations:
            self.mean += RATE * (observation - self.mean)
        return observations - self.mean


class ArrayPolicy(ActorCriticPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=ArrayExtractor, **kwargs)


class BufferPolicy(ActorCriticPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=BufferExtractor, **kwargs)


class SetPolicy(BaseCallback):
    """Gives the policy weights that are right for centred observations."""

    def _on_training_start(self) -> None:
        sign = self.training_env.get_attr("sign")[0] if self.training_env.has_attr("sign") else 1
        policy: Any = self.model.policy
        with torch.no_grad():
            policy.action_net.weight.zero_()
            policy.action_net.bias.zero_()
            policy.action_net.weight[1] = sign

    def _on_step(self) -> bool:
        if isinstance(self.model.policy, OffsetPolicy):
            self.model.policy.offset = 1002.5
        return True


def make_config(
    wrappers: Sequence[str] = (),
    vec_wrappers: Sequence[str] = (),
    base_wrappers: Sequence[str] = (),
    policy: str = "MlpPolicy",
    **more: Any,
) -> Any:
    parts = {
        "name": "carried",
        "timesteps": 192,
        "import_modules": [__name__],
        "env": {
            "id": "toolkit_tests/Shifted-v0",
            "n_envs": N_ENVS,
            "base_wrappers": [_qualify(name) for name in base_wrappers],
            "wrappers": [_qualify(name) for name in wrappers],
            "vec_wrappers": [_qualify(name) for name in vec_wrappers],
        },
        "algorithm": {
            "name": "ppo",
            "policy": policy if policy == "MlpPolicy" else f"{__name__}:{policy}",
            "params": {"n_steps": 16, "batch_size": 64, "n_epochs": 1, "learning_rate": 1e-30},
            "policy_params": {"net_arch": []},
        },
        "callbacks": [f"{__name__}:SetPolicy"],
        "snapshots": {"every_timesteps": None, "every_minutes": None},
    }
    return tk.RunConfig.model_validate(parts | more)


def _qualify(name: str) -> str:
    return name if ":" in name or name.islower() else f"{__name__}:{name}"


CASES: dict[str, dict[str, Any]] = {
    "attributes of a wrapper": {"wrappers": ["Centre"]},
    "an object of a wrapper": {"wrappers": ["CentreByObject"]},
    "a draw of a wrapper's constructor": {"wrappers": ["RandomSign"]},
    "a wrapper in the middle of a game": {"wrappers": ["Centre", "GameOfEpisodes"]},
    "Gymnasium's statistics": {"wrappers": ["gymnasium.wrappers:NormalizeObservation"]},
    "a base wrapper": {"base_wrappers": ["Centre"]},
    "vec_normalize": {"vec_wrappers": ["vec_normalize"]},
    "attributes of a vec wrapper": {"vec_wrappers": ["VecCentre"]},
    "an object of a vec wrapper": {"vec_wrappers": ["LateVecCentre"]},
    "an attribute of the policy": {"policy": "OffsetPolicy"},
    "an array of the features extractor": {"policy": "ArrayPolicy"},
    "a buffer outside the state dict": {"policy": "BufferPolicy"},
}


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_evaluation_acts_on_what_training_learned(parts: dict[str, Any], tmp_path: Path) -> None:
    run = tk.load(trainer.train(make_config(**parts), tmp_path / "run").directory)
    assert run.evaluate(6).returns == (float(STEPS),) * 6


def test_loaded_model_normalizes_observations_as_in_training(tmp_path: Path) -> None:
    run = tk.load(trainer.train(make_config(vec_wrappers=["vec_normalize"]), tmp_path / "run").directory)
    model, env = run.load_model(), gym.make("toolkit_tests/Shifted-v0")
    statistics = model.get_vec_normalize_env()
    assert statistics is not None
    observation, _ = env.reset(seed=0)
    episode_return = 0.0
    for _ in range(STEPS):
        action, _ = model.predict(statistics.normalize_obs(observation), deterministic=True)
        observation, reward, *_ = env.step(action)
        episode_return += float(reward)
    assert episode_return == STEPS


# --- Other uses than evaluation -------------------------------------------------------------------------------------


class SetOnce(SetPolicy):
    """Sets attributes of the policy and the environments at the start, and never again."""

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.num_timesteps == 0:
            policy: Any = self.model.policy
            policy.offset = 1002.5
            self.training_env.env_method("set_steps", 2 * STEPS)

    def _on_step(self) -> bool:
        return True


def test_confirmation_acts_on_what_training_learned(tmp_path: Path) -> None:
    success = {"threshold": STEPS, "episodes": 1, "min_timesteps": 100, "confirm_episodes": 3}
    callbacks = [f"{__name__}:SetPolicy", {"name": "success", "params": success}]
    run = trainer.train(make_config(["Centre", "GameOfEpisodes"], callbacks=callbacks), tmp_path / "run")
    assert run.result is not None
    assert run.result["status"] == "success"


def test_video_acts_on_what_training_learned(tmp_path: Path) -> None:
    run = tk.load(trainer.train(make_config(["CentreByObject"]), tmp_path / "run").directory)
    (video,) = run.record(formats=["gif"])
    assert video.stat().st_size > 0


@pytest.mark.parametrize("policy", ["OffsetPolicy", "ArrayPolicy", "BufferPolicy"])
def test_resume_restores_what_policy_learned(policy: str, tmp_path: Path) -> None:
    config = make_config(
        policy=policy, callbacks=[f"{__name__}:SetOnce"], snapshots={"every_timesteps": 64, "every_minutes": None}
    )
    with pytest.raises(TrainingError):
        trainer.train(config, tmp_path / "run", [StopAt(180)])
    run = tk.load(trainer.resume(tk.load(tmp_path / "run"), [StopAt()]).directory)
    assert run.evaluate(6).returns == (2.0 * STEPS,) * 6


@pytest.mark.parametrize(
    ("env_id", "vec_env"), [("Shifted-v0", "dummy"), ("Shifted-v0", "subproc"), ("ShiftedWithOwnState-v0", "dummy")]
)
def test_evaluation_has_what_callback_set_in_environment(env_id: str, vec_env: str, tmp_path: Path) -> None:
    config = make_config(policy="OffsetPolicy", callbacks=[f"{__name__}:SetOnce"])
    env = config.env.model_copy(update={"id": f"toolkit_tests/{env_id}", "vec_env": vec_env, "n_envs": 1})
    algorithm = config.algorithm.model_copy(update={"params": {**config.algorithm.params, "n_steps": 64}})
    config = config.model_copy(update={"env": env, "algorithm": algorithm})
    run = tk.load(trainer.train(config, tmp_path / "run").directory)
    assert run.evaluate(6).returns == (2.0 * STEPS,) * 6


# --- What is not carried --------------------------------------------------------------------------------------------


class Noisy(gym.Wrapper[Any, Any, Any, Any]):
    """Holds generators, and what depends on the render mode."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.rng, self.count = np.random.default_rng(0), 0
        self.is_drawn = env.render_mode is not None
        self.screen: Any = None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.count += int(self.rng.integers(1, 3))
        self.screen = self.screen or memoryview(b"")  # cannot be saved
        return self.env.step(action)


def test_unsaved_attribute_is_named_when_model_is_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer.train(make_config(["Noisy"]), tmp_path / "run")
    place = tmp_path / "run" / "wrappers"
    message = f"{place}: does not have wrapper Noisy: screen: evaluation starts with the initial value"
    assert message in caplog.messages


def test_copies_keep_their_generators_and_render_modes() -> None:
    trained, copy = (Noisy(gym.make("toolkit_tests/Shifted-v0", render_mode=mode)) for mode in (None, "rgb_array"))
    trained.reset(seed=0)
    trained.step(0)
    trained.screen = None
    state = capture(trained).state
    transfer(copy, {**state, "state": {name: state["state"][name] for name in ("rng", "count")}})
    assert copy.count == trained.count
    assert copy.rng.random() == np.random.default_rng(0).random()


# --- Archives that are missing --------------------------------------------------------------------------------------


def test_run_without_its_learned_state_is_refused(run_copy: tk.Run, toolkit: Toolkit) -> None:
    shutil.rmtree(run_copy.directory / "wrappers")
    finished = toolkit("evaluate", run_copy.directory)
    assert (finished.status, finished.out) == (2, "")
    place = run_copy.directory / "wrappers"
    assert f"error: {place}: does not exist, but must hold what the wrappers and the policy learned" in finished.err


def test_run_of_version_0_1_0_without_statistics_opens(run_copy: tk.Run) -> None:
    expected = run_copy.evaluate(3, seed=1)
    shutil.rmtree(run_copy.directory / "wrappers")
    with zipfile.ZipFile(run_copy.model_path, "a") as file:
        file.comment = b""  # as version 0.1.0 wrote it
    assert run_copy.evaluate(3, seed=1) == expected


def test_large_state_of_wrapper_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tk.load(trainer.train(make_config(["Hoarder"], timesteps=64), tmp_path / "run").directory)
    assert any("wrapper Hoarder: everything, which takes more than 4 MiB" in text for text in caplog.messages)
    assert len(run.evaluate(2).returns) == 2


class Hoarder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps more than is saved."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.visits = np.zeros(1 << 20)
        return self.env.reset(**kwargs)


class PickledPPO(PPO):
    """Saves its weights by pickle alone, as SBX does."""

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return [], []


class ForgetfulPPO(PPO):
    """Saves its optimizer alone."""

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy.optimizer"], []


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        ("PickledPPO", "it saves no torch parameters"),
        ("ForgetfulPPO", "it saves no torch parameters"),
    ],
)
def test_algorithm_without_readable_weights_is_refused(algorithm: str, reason: str, toolkit: Toolkit) -> None:
    Path("config.yaml").write_text(
        f"timesteps: 64\nenv: {{id: CartPole-v1}}\nalgorithm: {{name: '{__name__}:{algorithm}'}}\n"
    )
    for command in ("check", "train"):
        finished = toolkit(command, "config.yaml")
        assert (finished.status, finished.out) == (2, "")
        expected = f"'{__name__}:{algorithm}' has weights that cannot be saved and read without pickle: {reason}"
        assert f"config.yaml:3: algorithm.name: {expected}" in finished.err
    assert not Path("runs").exists()
