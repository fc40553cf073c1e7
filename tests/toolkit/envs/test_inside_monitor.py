"""What is inside Monitor: the base wrappers, whose rewards are raw, and the keys of ``info`` that it keeps."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean
from typing import Any

import gymnasium as gym
import pytest
from small_runs import find_differences, train_with_interruptions

import toolkit
from toolkit import Run, load_config
from toolkit.envs.factory import make_env, make_vec_env
from toolkit.envs.trial import try_environment
from toolkit.envs.wrapper_state import capture_wrapper_states, load_wrapper_states
from toolkit.training.trainer import train
from toolkit.utils.errors import ConfigError, TrainingError

MODULE = """\
import gymnasium as gym
import numpy as np


class Market(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.n_steps = self.price = 0

    def legal(self):
        return np.array([self.price > 0, True, True])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps, self.price = 0, int(self.np_random.integers(3))
        return self._observe(), {}

    def step(self, action):
        self.n_steps += 1
        self.price += int(action) - 1
        reward = np.array([self.price, -0.1 * self.n_steps])
        info = {"price": self.price, "is_success": self.price > 3, "note": 'a "b", c', "nothing": None}
        return self._observe(), reward, self.n_steps >= 40, False, info

    def render(self):
        return np.full((16, 16, 3), min(255, 50 + 5 * self.n_steps), np.uint8)

    def _observe(self):
        return np.array([np.tanh(self.price), self.n_steps / 40], np.float32)


class Weigh(gym.Wrapper):
    def __init__(self, env, weights=(1.0, 1.0)):
        super().__init__(env)
        self.weights = np.array(weights)
        self.n_illegal = 0

    def step(self, action):
        self.n_illegal += not self.env.legal()[action]
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward @ self.weights) - 0.01 * self.n_illegal
        return observation, reward, terminated, truncated, {**info, "n_illegal": self.n_illegal}


class SkipFrames(gym.Wrapper):
    def step(self, action):
        total = 0.0
        for _ in range(2):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def find_legal_actions(env):
    return env.legal()


class AsksWhenBuilt(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        env.legal()


class Asks(gym.Wrapper):
    def __init__(self, env, name: str = "legal"):
        super().__init__(env)
        self.name = name

    def step(self, action):
        getattr(self.env, self.name)()
        return self.env.step(action)


gym.register("Market-v0", Market, max_episode_steps=15)
"""
CONFIG = """\
timesteps: 128
import_modules: [./market.py]
env:
  id: Market-v0
  n_envs: 2
  base_wrappers:
    - {name: ./market.py:Weigh, params: {weights: [1.0, 0.5]}}
    - ./market.py:SkipFrames
  info_keywords: [price, is_success, note, nothing]
algorithm: {name: ppo, params: {n_steps: 32, batch_size: 32, n_epochs: 1}, policy_params: {net_arch: [8]}}
snapshots: {every_timesteps: 64}
"""
BETWEEN = "RawMonitor is between .* 'legal': name the wrapper first under env.base_wrappers"


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config, with its module beside it, which registers its environment once."""
    folder = tmp_path_factory.mktemp("market")
    (folder / "market.py").write_text(MODULE)
    (folder / "config.yaml").write_text(CONFIG)
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def run(config_file: Path) -> Run:
    """A run of the config."""
    train(load_config(config_file), config_file.parent / "run")
    return toolkit.load(config_file.parent / "run")


def read_rows(directory: Path) -> list[dict[str, str]]:
    """Return the rows of ``monitor.csv`` without their times."""
    rows = csv.DictReader((directory / "monitor.csv").read_text().splitlines()[1:])
    return [row | {"t": ""} for row in rows]


def build(config_file: Path, **env: Any) -> gym.Env[Any, Any]:
    config = load_config(config_file, {f"env.{key}": value for key, value in env.items()})
    return make_env(config, config.components.env, config.components.base_wrappers, config.components.wrappers)


def locate(config_file: Path, name: str) -> str:
    return f"{config_file.parent / 'market.py'}:{name}"


def write_keywords(config_file: Path, keywords: str) -> Path:
    """Write a copy of the config with other info keywords, which are in line 9."""
    text = config_file.read_text().replace("[price, is_success, note, nothing]", keywords)
    (folder := config_file.parent / "keywords").mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(text.replace("./market.py", str(config_file.parent / "market.py")))
    return folder / "config.yaml"


def play(env: gym.Env[Any, Any]) -> tuple[int, float, dict[str, Any]]:
    """Play an episode; return its length, its shaped return and the info of its last step."""
    env.reset(seed=0)
    total, length, is_over = 0.0, 0, False
    while not is_over:
        _, reward, terminated, truncated, info = env.step(2)
        total, length, is_over = total + float(reward), length + 1, terminated or truncated
    return length, total, info


def test_rewards_of_base_wrappers_are_raw(config_file: Path) -> None:
    _, total, info = play(build(config_file))
    assert info["episode"]["r"] == pytest.approx(total)
    clip = {"name": "gymnasium.wrappers:ClipReward", "params": {"min_reward": 0.0, "max_reward": 1.0}}
    _, shaped, info = play(build(config_file, wrappers=[clip]))
    assert info["episode"]["r"] == pytest.approx(total)
    assert shaped != pytest.approx(total)


def test_time_limit_counts_steps_outside_base_wrappers(config_file: Path) -> None:
    assert play(build(config_file))[0] == 15  # of the registration
    assert play(build(config_file, max_episode_steps=4))[0] == 4
    assert play(build(config_file, max_episode_steps=1_000))[0] == 20  # 40 steps of the environment
    limit = {"name": "gymnasium.wrappers:TimeLimit", "params": {"max_episode_steps": 6}}
    base_wrappers = [locate(config_file, "Weigh"), limit, locate(config_file, "SkipFrames")]
    assert play(build(config_file, base_wrappers=base_wrappers))[0] == 3


def test_wrappers_of_the_registration_are_inside_base_wrappers(config_file: Path) -> None:
    flatten = gym.wrappers.FlattenObservation.wrapper_spec()
    gym.register("Flat-v0", "gymnasium.envs.classic_control:CartPoleEnv", additional_wrappers=(flatten,))
    env = build(config_file, id="Flat-v0", base_wrappers=[locate(config_file, "SkipFrames")])
    assert "<SkipFrames<FlattenObservation<OrderEnforcing<" in str(env)


def test_checker_of_gymnasium_sees_what_base_wrappers_return(config_file: Path) -> None:
    assert "<PassiveEnvChecker<SkipFrames<Weigh<Market" in str(build(config_file))
    assert "PassiveEnvChecker" not in str(build(config_file, params={"disable_env_checker": True}))


def test_mask_function_takes_the_raw_environment(config_file: Path) -> None:
    params = {"action_mask_fn": locate(config_file, "find_legal_actions")}
    masker = {"name": "sb3_contrib.common.wrappers:ActionMasker", "params": params}
    env = build(config_file, base_wrappers=[masker])
    env.reset(seed=0)
    assert env.get_wrapper_attr("action_masks")().shape == (3,)


def test_interrupted_run_equals_uninterrupted_one(config_file: Path, run: Run, tmp_path: Path) -> None:
    config = load_config(config_file)
    train_with_interruptions(config, tmp_path / "resumed", (90,))
    assert find_differences(run.directory, tmp_path / "resumed") == []


def test_subprocesses_play_the_same_episodes(config_file: Path, run: Run, tmp_path: Path) -> None:
    train(load_config(config_file, ["env.vec_env=subproc"]), tmp_path / "subproc")
    assert read_rows(tmp_path / "subproc") == read_rows(run.directory)


def test_evaluation_takes_over_state_of_base_wrappers(config_file: Path) -> None:
    config = load_config(config_file, ["env.n_envs=1"])
    training_env, env = make_vec_env(config, seed=0), make_vec_env(config, seed=1)
    training_env.env_method("set_wrapper_attr", "n_illegal", 7)
    load_wrapper_states(env, capture_wrapper_states(training_env))
    assert env.get_attr("n_illegal") == [7]


def test_evaluation_plays_with_base_wrappers(run: Run) -> None:
    evaluation = run.evaluate(episodes=2)
    assert evaluation.success_rate is not None
    assert evaluation.max_return < 40


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_failed_training_names_layer_between(config_file: Path, tmp_path: Path, vec_env: str) -> None:
    changes = {"env.wrappers": [locate(config_file, "Asks")], "env.vec_env": vec_env, "env.n_envs": 1}
    with pytest.raises(TrainingError, match=BETWEEN):
        train(load_config(config_file, changes), tmp_path / "run")


def test_check_names_layer_between_wrapper_and_attribute(config_file: Path) -> None:
    config = load_config(config_file, {"env.wrappers": [locate(config_file, "Asks")]})
    with pytest.raises(ConfigError, match=BETWEEN):
        try_environment(config)


def test_check_names_no_layer_for_unknown_attribute(config_file: Path) -> None:
    wrapper = {"name": locate(config_file, "Asks"), "params": {"name": "illegal"}}
    with pytest.raises(ConfigError, match="no attribute 'illegal'") as refused:
        try_environment(load_config(config_file, {"env.wrappers": [wrapper]}))
    assert "base_wrappers" not in str(refused.value)


def test_wrapper_that_asks_when_it_is_built_names_layer_between(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=rf"env\.wrappers\.0: .*{BETWEEN}"):
        build(config_file, wrappers=[locate(config_file, "AsksWhenBuilt")])


def test_vector_reward_without_base_wrapper_is_refused(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"ndarray of shape \(2,\); .* name it under env.base_wrappers"):
        try_environment(load_config(config_file, {"env.base_wrappers": []}))


def test_info_keywords_are_columns_after_the_others(run: Run) -> None:
    header, *rows = (run.directory / "monitor.csv").read_text().splitlines()[1:]
    assert header == "r,l,t,timestep,price,is_success,note,nothing"
    price, is_success, *texts = next(csv.reader(rows))[4:]
    assert int(price) > 3 if is_success == "True" else int(price) <= 3
    assert texts == ['a "b", c', ""]


def test_log_has_means_of_info_keywords_that_are_numbers(run: Run) -> None:
    rows = [*csv.DictReader((run.directory / "progress.csv").read_text().splitlines())]
    episodes = read_rows(run.directory)
    assert float(rows[-1]["rollout/price"]) == pytest.approx(fmean(int(row["price"]) for row in episodes))
    assert rows[-1]["rollout/is_success"] == rows[-1]["rollout/success_rate"]
    assert "rollout/note" not in rows[-1]


def test_columns_of_info_keywords_precede_the_first_episode(config_file: Path, tmp_path: Path) -> None:
    changes = {"env.max_episode_steps": 1_000, "env.base_wrappers": [locate(config_file, "Weigh")], "timesteps": 64}
    run = train(load_config(config_file, changes), tmp_path / "run")
    assert (run.directory / "monitor.csv").read_text().endswith("r,l,t,timestep,price,is_success,note,nothing\n")


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_missing_info_keyword_ends_training(config_file: Path, tmp_path: Path, vec_env: str) -> None:
    changes = {"env.info_keywords": ["note", "prize"], "env.vec_env": vec_env, "env.n_envs": 1}
    message = r"env\.info_keywords\.1: .* no info\['prize'\]; did you mean 'price'\?"
    with pytest.raises(TrainingError, match=message):
        train(load_config(config_file, changes), tmp_path / "run")


def test_check_finds_missing_info_keyword(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:9: env\.info_keywords\.0: .* no info\['profit'\]; known"):
        try_environment(load_config(write_keywords(config_file, "[profit]")))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ("[r]", r"should differ from the first columns of monitor\.csv \(r, l, t, timestep\), not 'r'"),
        ("[x, x]", r"should have each name once, not \['x', 'x'\]"),
        ('["a\\nb"]', "should have printable characters only"),
        ("[1]", "should be a valid string, not 1"),
        ("x", "should be a list, not 'x'"),
    ],
)
def test_unfit_info_keywords_are_refused(config_file: Path, keywords: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write_keywords(config_file, keywords))
