"""`toolkit import-zoo`: RL Zoo entries become equivalent configs, or are refused with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support import Toolkit, files_in, has_extra
from torch import nn

import toolkit as tk
from toolkit.envs.factory import make_vec_env
from toolkit.migration.rl_zoo.convert import import_zoo
from toolkit.migration.rl_zoo.files import read_zoo_file
from toolkit.training.model import build_model
from toolkit.utils.errors import ConfigError, ToolkitError

SAMPLE = Path(__file__).parent / "zoo_sample.yml"

ZOO = """\
default:
  n_timesteps: !!float 1e6
  policy: 'MlpPolicy'

atari:
  frame_stack: 4
  policy: 'CnnPolicy'
  n_timesteps: !!float 2e7
  buffer_size: 5000

CartPole-v1: &pole
  n_timesteps: !!float 4e4
  policy: 'MlpPolicy'
  learning_rate: lin_2e-3
  buffer_size: 3_000
  learning_starts: 40
  train_freq: 8
  policy_kwargs: "dict(net_arch=[24, 16], activation_fn=nn.ReLU)"

Acrobot-v1:
  <<: *pole
  n_envs: 3
  normalize: true
"""


def convert(
    entry: str, algorithm: str = "dqn", env_id: str = "CartPole-v1", head: str = "n_timesteps: 100"
) -> dict[str, Any]:
    """Convert an entry with these lines, and load the YAML as a user does."""
    lines = [head, *entry.splitlines()]
    Path("zoo.yml").write_text(f"{env_id.rpartition(':')[2]}:\n" + "".join(f"  {line}\n" for line in lines))
    Path("converted.yaml").write_text(import_zoo(Path("zoo.yml"), env_id, algorithm))
    return tk.load_config("converted.yaml").model_dump()


def get_refusal(
    entry: str, algorithm: str = "dqn", env_id: str = "CartPole-v1", head: str = "n_timesteps: 100"
) -> str:
    with pytest.raises(ConfigError) as raised:
        convert(entry, algorithm, env_id, head)
    return str(raised.value)


def test_import_zoo_prints_config_that_trains(toolkit: Toolkit) -> None:
    Path("dqn.yml").write_text(ZOO)
    result = toolkit("import-zoo", "dqn.yml", "CartPole-v1", "--algorithm", "dqn")
    assert (result.status, result.err) == (0, "")
    assert (
        result.out
        == """\
# RL Zoo's 'CartPole-v1' in 'dqn.yml', for dqn.
timesteps: 40_000
env: {id: CartPole-v1}
algorithm:
  name: dqn
  params:
    learning_rate:
      name: linear
      params: {start: 0.002}
    buffer_size: 3000
    learning_starts: 40
    train_freq: 8
  policy_params:
    net_arch: [24, 16]
    activation_fn: torch.nn:ReLU
"""
    )
    Path("pole.yaml").write_text(result.out)
    assert toolkit("check", "pole.yaml").status == 0
    assert toolkit("train", "pole.yaml", "--set", "timesteps=64", "--quiet").status == 0
    assert json.loads(Path("runs/pole-1/result.json").read_text())["timesteps"] == 64


PIXELS = "stable_baselines3.common.atari_wrappers"
ATARI = pytest.mark.skipif(not has_extra("atari"), reason="needs the extra atari")
MEANINGS: dict[str, tuple[str, str, str, Any]] = {
    # algorithm, entry, path in the config, value there
    "a policy of the algorithm's": ("ppo", "policy: CnnPolicy", "algorithm.policy", "CnnPolicy"),
    "a policy by its path": (
        "dqn",
        "policy: stable_baselines3.dqn.policies.MlpPolicy",
        "algorithm.policy",
        "stable_baselines3.dqn.policies:MlpPolicy",
    ),
    "a registered policy by its path": (
        "double_dqn",
        "policy: toolkit.algorithms.policies.DuelingMlpPolicy",
        "algorithm.policy",
        "DuelingMlpPolicy",
    ),
    "Zoo's name of an algorithm": ("ppo_lstm", "policy: MlpLstmPolicy", "algorithm.name", "recurrent_ppo"),
    "environments": ("ppo", "n_envs: 8", "env.n_envs", 8),
    "environments of ARS": ("ars", "n_envs: 8", "env.n_envs", 1),
    "parameters of the environment": (
        "ppo",
        "env_kwargs: {sutton_barto_reward: true}",
        "env.params",
        {"sutton_barto_reward": True},
    ),
    "parameters of Monitor": ("ppo", "monitor_kwargs: \"dict(info_keywords=('a',))\"", "env.info_keywords", ("a",)),
    "a line that falls": (
        "ppo",
        "clip_range: lin_0.2",
        "algorithm.params.clip_range",
        {"name": "linear", "params": {"start": 0.2}},
    ),
    "a line for an algorithm whose annotation says Callable alone": (
        "tqc",
        "learning_rate: lin_1e-3",
        "algorithm.params.learning_rate",
        {"name": "linear", "params": {"start": 0.001}},
    ),
    "text that is no line": ("sac", "ent_coef: 'auto'", "algorithm.params.ent_coef", "auto"),
    "a tuple": ("sac", 'train_freq: [2, "episode"]', "algorithm.params.train_freq", [2, "episode"]),
    "a tuple in a string": ("sac", "train_freq: (2, 'episode')", "algorithm.params.train_freq", [2, "episode"]),
    "episodes of a rollout as before SB3 1.0": (
        "sac",
        "train_freq: -1\nn_episodes_rollout: 1",
        "algorithm.params",
        {"train_freq": [1, "episode"]},
    ),
    "steps of a rollout as before SB3 1.0": (
        "sac",
        "train_freq: 64\nn_episodes_rollout: -1",
        "algorithm.params",
        {"train_freq": 64},
    ),
    "networks in a list, as before SB3 1.8": (
        "a2c",
        'policy_kwargs: "dict(net_arch=[dict(pi=[8], vf=[4])])"',
        "algorithm.policy_params",
        {"net_arch": {"pi": [8], "vf": [4]}},
    ),
    "mappings in mappings": (
        "a2c",
        'policy_kwargs: "dict(net_arch=dict(pi=[8], vf=[8, 8]), log_std_init=-2.5, ortho_init=False)"',
        "algorithm.policy_params",
        {"net_arch": {"pi": [8], "vf": [8, 8]}, "log_std_init": -2.5, "ortho_init": False},
    ),
    "a mapping of YAML's": (
        "dqn",
        "policy_kwargs: {net_arch: [8]}",
        "algorithm.policy_params",
        {"net_arch": [8]},
    ),
    "classes by Zoo's names": (
        "a2c",
        'policy_kwargs: "dict(optimizer_class=RMSpropTFLike, activation_fn=th.nn.Tanh)"',
        "algorithm.policy_params",
        {
            "optimizer_class": "stable_baselines3.common.sb2_compat.rmsprop_tf_like:RMSpropTFLike",
            "activation_fn": "torch.nn:Tanh",
        },
    ),
    "hindsight": (
        "sac",
        "replay_buffer_class: HerReplayBuffer\nreplay_buffer_kwargs: \"dict(goal_selection_strategy='final')\"",
        "algorithm.params",
        {
            "replay_buffer_class": "her",
            "replay_buffer_kwargs": {"goal_selection_strategy": "final"},
        },
    ),
    "one wrapper": (
        "ppo",
        "env_wrapper: sb3_contrib.common.wrappers.TimeFeatureWrapper",
        "env.wrappers",
        [{"name": "sb3_contrib.common.wrappers:TimeFeatureWrapper", "params": {}}],
    ),
    "wrappers with and without parameters": (
        "ppo",
        "env_wrapper:\n  - gymnasium.wrappers.time_limit.TimeLimit:\n      max_episode_steps: 50\n"
        "  - rl_zoo3.wrappers.TimeFeatureWrapper\n"
        "  - rl_zoo3.wrappers.YAMLCompatResizeObservation:\n      shape: [32, 16]",
        "env.wrappers",
        [
            {"name": "gymnasium.wrappers:TimeLimit", "params": {"max_episode_steps": 50}},
            {"name": "sb3_contrib.common.wrappers:TimeFeatureWrapper", "params": {}},
            {"name": "gymnasium.wrappers:ResizeObservation", "params": {"shape": [32, 16]}},
        ],
    ),
    "no wrapper": ("ppo", "env_wrapper: null", "env.wrappers", []),
    "normalization": ("a2c", "normalize: true", "env.vec_wrappers", [{"name": "vec_normalize", "params": {}}]),
    "normalization, discounted as the algorithm is": (
        "a2c",
        "normalize: true\ngamma: 0.9",
        "env.vec_wrappers",
        [{"name": "vec_normalize", "params": {}}],
    ),
    "normalization as a call": (
        "a2c",
        'normalize: "dict(norm_obs=True, norm_reward=False)"',
        "env.vec_wrappers",
        [{"name": "vec_normalize", "params": {"norm_obs": True, "norm_reward": False}}],
    ),
    "normalization as a literal": (
        "a2c",
        "normalize: \"{'norm_obs': False}\"\ngamma: 0.5",
        "env.vec_wrappers",
        [{"name": "vec_normalize", "params": {"norm_obs": False}}],
    ),
    "no normalization": ("a2c", "normalize: false", "env.vec_wrappers", []),
    "Zoo's order of wrappers": (
        "a2c",
        "frame_stack: 3\nnormalize: {clip_obs: 5.0}\n"
        "vec_env_wrapper:\n  - stable_baselines3.common.vec_env.VecFrameStack:\n      n_stack: 2",
        "env.vec_wrappers",
        [
            {"name": "vec_frame_stack", "params": {"n_stack": 2}},
            {"name": "vec_normalize", "params": {"clip_obs": 5.0}},
            {"name": "vec_frame_stack", "params": {"n_stack": 3}},
        ],
    ),
    "noise": (
        "td3",
        "noise_type: 'normal'\nnoise_std: 0.3",
        "algorithm.params.action_noise",
        {"name": "stable_baselines3.common.noise:NormalActionNoise", "params": {"mean": 0.0, "sigma": 0.3}},
    ),
    "no noise": ("td3", "noise_type: null\nnoise_std: 0.3", "algorithm.params", {}),
    "callbacks": (
        "ppo",
        "callback:\n  - stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes:\n      max_episodes: 5\n"
        "  - rl_zoo3.callbacks.RawStatisticsCallback",
        "callbacks",
        [{"name": "max_episodes", "params": {"max_episodes": 5}}],
    ),
}


@pytest.mark.parametrize(("algorithm", "entry", "path", "value"), MEANINGS.values(), ids=MEANINGS)
def test_zoo_key_is_converted_to_equivalent_config(algorithm: str, entry: str, path: str, value: Any) -> None:
    config_value: Any = convert(entry, algorithm)
    for key in path.split("."):
        config_value = config_value[key]
    assert config_value == (tuple(value) if isinstance(config_value, tuple) else value)


@pytest.mark.parametrize("notation", ["!!float 1.5e4", "1.5e4", "15000", "15_000", "'1.5e4'", "!!float 15000"])
def test_timesteps_in_any_notation_become_an_integer(notation: str) -> None:
    assert convert("", head=f"n_timesteps: {notation}")["timesteps"] == 15_000


def test_converted_parameters_become_objects_and_classes() -> None:
    convert('learning_rate: lin_4e-3\npolicy_kwargs: "dict(activation_fn=nn.GELU)"', "ppo")
    components = tk.load_config("converted.yaml").components
    assert components.policy_arguments == {"activation_fn": nn.GELU}
    schedule = components.algorithm.arguments["learning_rate"]
    assert [schedule(remaining) for remaining in (1.0, 0.25, 0.0)] == [0.004, 0.001, 0.0]


def test_comment_names_keys_left_out() -> None:
    monitor = "monitor_kwargs: {info_keywords: [x], allow_early_resets: true}"
    convert(f"n_envs: 4\n{monitor}\ncallback: rl_zoo3.callbacks.RawStatisticsCallback", "ars")
    notes = [line for line in Path("converted.yaml").read_text().splitlines() if line.startswith("# ")]
    assert [line.split()[1] for line in notes] == [
        "RL",
        "n_envs:",
        "monitor_kwargs:",
        "rl_zoo3.callbacks:RawStatisticsCallback",
    ]


def read_notes() -> list[str]:
    """Return the comments of the converted config but the first."""
    lines = Path("converted.yaml").read_text().splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ")][1:]


def test_parameters_that_sb3_has_removed_are_left_out_and_said() -> None:
    entry = (
        "policy_kwargs: dict(sde_net_arch=[64])\n"
        "replay_buffer_class: HerReplayBuffer\n"
        "replay_buffer_kwargs: dict(online_sampling=True, max_episode_length=100, n_sampled_goal=2)"
    )
    params = convert(entry, "sac")["algorithm"]["params"]
    assert params["replay_buffer_kwargs"] == {"n_sampled_goal": 2}
    assert read_notes() == [
        "policy_kwargs: sde_net_arch is left out: SB3 no longer has it.",
        "replay_buffer_kwargs: online_sampling is left out: SB3 no longer has it.",
        "replay_buffer_kwargs: max_episode_length is left out: SB3 no longer has it.",
    ]


def test_renamed_environment_gets_its_new_name_where_both_act_the_same() -> None:
    Path("zoo.yml").write_text(
        "LunarLander-v2: {n_timesteps: 8, policy: MlpPolicy}\n"
        "LunarLanderContinuous-v2: {n_timesteps: 8, policy: MlpPolicy, env_kwargs: {enable_wind: true}}\n"
    )
    calm, windy = (import_zoo(Path("zoo.yml"), name, "ppo") for name in ("LunarLander-v2", "LunarLanderContinuous-v2"))
    assert "\nenv: {id: LunarLander-v3}\n" in calm
    assert "\n# LunarLander-v2 is LunarLander-v3 now: without wind it acts the same.\n" in calm
    assert "id: LunarLanderContinuous-v2" in windy


ARM = """\
import gymnasium as gym
import numpy as np


class Arm(gym.Env):
    action_space = gym.spaces.Box(-1, 1, (2, 3))
    observation_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, True, {}


gym.register("Arm-v0", Arm)
"""


@pytest.mark.parametrize("kind", ["normal", "ornstein-uhlenbeck"])
def test_action_noise_is_independent_in_every_dimension(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("three_joints.py").write_text(ARM)
    monkeypatch.syspath_prepend(Path.cwd())
    convert(f"noise_type: {kind}\nnoise_std: 0.2", "td3", "three_joints:Arm-v0")
    config = tk.load_config("converted.yaml")
    env = make_vec_env(config, seed=0)
    noise = build_model(config, env).action_noise
    env.close()
    np.random.seed(0)
    draws = np.array([noise() for _ in range(2_000)])
    assert draws.shape == (2_000, 2, 3)
    assert np.unique(draws[0]).size == 6
    steps = draws if kind == "normal" else np.diff(draws, axis=0) * 10  # dt is a hundredth
    assert steps.std(axis=0) == pytest.approx(0.2, rel=0.1)


@ATARI
def test_atari_wrapper_gets_its_registered_name() -> None:
    config = convert(f"env_wrapper:\n  - {PIXELS}.AtariWrapper:\n      screen_size: 36")
    assert config["env"]["wrappers"] == ({"name": "atari", "params": {"screen_size": 36}},)


def test_missing_extra_is_named_with_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "toolkit_plugins.wrappers.atari", raising=False)
    reason = get_refusal(f"env_wrapper: {PIXELS}.AtariWrapper")
    assert reason.startswith("zoo.yml:3: env.wrappers.0.name: wrapper 'atari' needs the module 'cv2'")
    assert reason.endswith('pip install "sb3-toolkit[atari]"')


class TestChosenEntry:
    """Zoo takes the environment's own entry, or `atari`, or `default`."""

    @pytest.mark.parametrize(
        ("env_id", "entry", "in_the_config"),
        [
            ("CartPole-v1", "CartPole-v1", "CartPole-v1"),
            ("ALE/Pong-v5", "atari", "ale_py:ALE/Pong-v5"),
            ("PongNoFrameskip-v4", "atari", "ale_py:PongNoFrameskip-v4"),
            ("ale_py:Pong-v4", "atari", "ale_py:Pong-v4"),
            ("MountainCar-v0", "default", "MountainCar-v0"),
            ("my_envs:Maze-v0", "default", "my_envs:Maze-v0"),
            ("my_envs:CartPole-v1", "CartPole-v1", "my_envs:CartPole-v1"),
        ],
    )
    def test_is_named_in_first_comment(self, env_id: str, entry: str, in_the_config: str) -> None:
        Path("dqn.yml").write_text(ZOO)
        text = import_zoo(Path("dqn.yml"), env_id, "dqn")
        assert text.startswith(f"# RL Zoo's '{entry}' in 'dqn.yml', for dqn.\n")
        assert f"id: {in_the_config}" in text.replace("'", "")

    def test_misspelled_environment_gets_no_defaults(self) -> None:
        Path("dqn.yml").write_text(ZOO)
        with pytest.raises(ConfigError, match=r"dqn\.yml:1: has no entry 'CartPol-v1'; did you mean 'CartPole-v1'\?"):
            import_zoo(Path("dqn.yml"), "CartPol-v1", "dqn")

    def test_environment_that_is_not_installed_is_converted_with_note(self) -> None:
        Path("dqn.yml").write_text(ZOO)
        text = import_zoo(Path("dqn.yml"), "AntBulletEnv-v0", "dqn")
        assert "\n# The environment is not installed: " in text
        assert "\nenv: {id: 'pybullet_envs_gymnasium:AntBulletEnv-v0'}\n" in text


class TestSharedValues:
    """Anchors and merge keys as PyYAML reads them."""

    def test_own_keys_win_over_merged_keys(self) -> None:
        Path("dqn.yml").write_text(ZOO)
        data = read_zoo_file(Path("dqn.yml")).data
        assert data["Acrobot-v1"] == data["CartPole-v1"] | {"n_envs": 3, "normalize": True}

    @pytest.mark.parametrize(
        "text",
        [
            "{a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}, c: {z: 4, <<: *a}}",
            "{a: &a {x: 1}, b: &b {x: 2, y: 2}, c: {<<: [*a, *b], z: 3}}",
            "{a: &a {x: 1}, b: &b {<<: *a, y: 2}, c: {<<: *b, x: 3}}",
            "{a: &a {k: &k [1, !!float 2]}, b: {<<: *a, l: *k}}",
            "a: &a\n  x: 1\nb:\n  <<: *a\n  <<: {y: 2}\n",
            '{a: {"<<": {x: 1}}}',
        ],
    )
    def test_are_read_as_pyyaml_reads_them(self, text: str) -> None:
        Path("zoo.yml").write_text(text)
        expected = yaml.safe_load(text) if '"<<"' not in text else {"a": {"<<": {"x": 1}}}
        assert read_zoo_file(Path("zoo.yml")).data == expected

    def test_mistake_is_reported_at_its_first_location(self) -> None:
        Path("zoo.yml").write_text("A-v0: &a\n  n_timesteps: 10\n  batch_sice: 2\nB-v0:\n  <<: *a\n")
        with pytest.raises(ConfigError, match=r"zoo\.yml:3: algorithm\.params\.batch_sice: unknown .*'batch_size'\?"):
            import_zoo(Path("zoo.yml"), "B-v0", "dqn")


MISTAKES = {
    "an unknown key": ("batch_sice: 2", "zoo.yml:3: algorithm.params.batch_sice: unknown parameter; did you mean"),
    "a key of another algorithm": ("n_steps: []", "zoo.yml:3: algorithm.params.n_steps: should be int, not []"),
    "code": (
        'policy_kwargs: \'dict(x=__import__("os").mkdir("executed"))\'',
        'zoo.yml:3: CartPole-v1.policy_kwargs: \'__import__("os").mkdir("executed")\' is code, which does not run',
    ),
    "a sum": ("policy_kwargs: dict(net_arch=[8 + 8])", "zoo.yml:3: CartPole-v1.policy_kwargs: '8 + 8' is code"),
    "a call": ("normalize: dict(gamma=float(1))", "zoo.yml:3: CartPole-v1.normalize: 'float(1)' is code"),
    "arguments spread out": ("normalize: dict(**x)", "zoo.yml:3: CartPole-v1.normalize: 'dict(**x)' is code"),
    "no Python": ("normalize: 'dict('", "zoo.yml:3: CartPole-v1.normalize: 'dict(' is not a Python expression"),
    "very much Python": ("normalize: '" + "-" * 9_000 + "1'", "zoo.yml:3: CartPole-v1.normalize: '---"),
    "too much Python": (
        "normalize: '" + "1" * 20_000 + "'",
        "zoo.yml:3: CartPole-v1.normalize: is longer than 10,000",
    ),
    "a number for a mapping": ("normalize: 3", "zoo.yml:3: CartPole-v1.normalize: should be true, false or a mapping"),
    "a list for a mapping": ("policy_kwargs: '[1]'", "zoo.yml:3: CartPole-v1.policy_kwargs: should be a mapping"),
    "another schedule": ("learning_rate: cos_1", "zoo.yml:3: CartPole-v1.learning_rate: should be a number, or lin_"),
    "another noise": ("noise_type: pink", "zoo.yml:3: CartPole-v1.noise_type: should be normal or ornstein"),
    "noise of no size": ("noise_type: normal", "zoo.yml:3: CartPole-v1.noise_type: requires a number as noise_std"),
    "noise where none is taken": (
        "noise_type: normal\nnoise_std: 1",
        "zoo.yml:3: algorithm.params.action_noise: unknown parameter",
    ),
    "a wrapper that is not installed": (
        "env_wrapper:\n  - sb3_contrib.common.wrappers.TimeFeatureWrapper\n  - lost_package.wrappers.Flat",
        "zoo.yml:5: env.wrappers.1.name: module 'lost_package' does not exist; is its package installed here?",
    ),
    "a wrapper that is none": (
        "env_wrapper: torch.nn.ReLU",
        "zoo.yml:3: env.wrappers.0.name: 'torch.nn:ReLU' is not a valid wrapper",
    ),
    "a wrapper's unknown parameter": (
        "env_wrapper:\n  - gymnasium.wrappers.ClipReward:\n      minimum: 1",
        "zoo.yml:4: env.wrappers.0.params.minimum: unknown parameter",
    ),
    "two wrappers in one": (
        "env_wrapper: [{a.B: {}, c.D: {}}]",
        "zoo.yml:3: CartPole-v1.env_wrapper: should be a path",
    ),
    "a file as a wrapper": ("env_wrapper: /tmp/x.py:Y", "zoo.yml:3: CartPole-v1.env_wrapper: should be the path of a"),
    "training in a thread": (
        "callback: rl_zoo3.callbacks.ParallelTrainCallback",
        "zoo.yml:3: CartPole-v1.callback: rl_zoo3.callbacks:ParallelTrainCallback trains in a separate thread",
    ),
    "HER of old": ("model_class: sac", "zoo.yml:3: CartPole-v1.model_class: is from before HER became a replay"),
    "a seed": ("seed: 1", "zoo.yml:3: algorithm.params.seed: cannot be set here"),
    "a duplicate key": ("gamma: 0.9\ngamma: 0.8", "zoo.yml:4: CartPole-v1.gamma: duplicate key"),
    "another tag": (
        "gamma: !!python/name:os.system x",
        "zoo.yml:3: 'tag:yaml.org,2002:python/name:os.system': !!float is the only",
    ),
    "a tag on a mapping": ("gamma: !!float {}", "zoo.yml:3: 'tag:yaml.org,2002:float': !!float is the only"),
    "a number that is octal to Zoo": ("batch_size: 010", "zoo.yml:3: '010': Zoo reads a number that starts with 0"),
    "no number": ("gamma: !!float much", "zoo.yml:3: 'much' is not a number"),
    "merged text": ("<<: text", "zoo.yml:3: '<<' takes a mapping, or a list of mappings"),
    "a merge of nothing": ("<<: *nothing", "zoo.yml:3: is not valid YAML: found undefined alias 'nothing'"),
    "a mapping that holds itself": ("x: &x {y: *x}", "zoo.yml:3: 'x' contains itself"),
    "a mapping below itself": ("x: &x {<<: *x}", "zoo.yml:3: 'x' contains itself"),
}


@pytest.mark.parametrize(("entry", "message"), MISTAKES.values(), ids=MISTAKES)
def test_invalid_entry_is_refused_with_its_line(entry: str, message: str) -> None:
    assert get_refusal(entry).startswith(message)
    assert files_in(Path()) == {"zoo.yml"}
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("gamma: 0.9", "zoo.yml:1: timesteps: required key is missing"),
        ("n_timesteps: many", "zoo.yml:2: CartPole-v1.n_timesteps: should be a whole number, not 'many'"),
        ("n_timesteps: .inf", "zoo.yml:2: CartPole-v1.n_timesteps: should be a whole number, not inf"),
        ("n_timesteps: true", "zoo.yml:2: CartPole-v1.n_timesteps: should be a whole number, not True"),
        ("n_timesteps: 1000.9", "zoo.yml:2: CartPole-v1.n_timesteps: should be a whole number, not 1000.9"),
        ("n_timesteps: 0", "zoo.yml:2: timesteps: "),
    ],
)
def test_missing_or_invalid_timesteps_are_refused(head: str, message: str) -> None:
    assert get_refusal("", head=head).startswith(message)


def make_chain(first: str, link: str, length: int) -> str:
    """Write values that each contain the one before."""
    return f"b0: &b0 {first}\n" + "".join(f"b{i}: &b{i} {link.format(f'*b{i - 1}')}\n" for i in range(1, length))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (make_chain("[x, x]", "[{0}, {0}, {0}, {0}, {0}, {0}, {0}]", 9), "exceeds 1 MiB here"),
        ("a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 100 + "1]\n", "exceeds 1 MiB here"),
        (make_chain("{x: 1}", "{{<<: {0}}}", 100), "is nested more than 40 levels deep"),
        (make_chain("[1]", "[{0}]", 100), "is nested more than 40 levels deep"),
    ],
    ids=["laughs", "text", "merges", "nesting"],
)
def test_shared_values_beyond_limits_are_refused(text: str, message: str) -> None:
    Path("zoo.yml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_zoo_file(Path("zoo.yml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("absent.yml CartPole-v1 --algorithm dqn", "absent.yml: cannot be read: No such file or directory"),
        (". CartPole-v1 --algorithm dqn", ".: is not a file"),
        ("list.yml CartPole-v1 --algorithm dqn", "list.yml:1: must be a mapping of environments to hyperparameters"),
        ("list.yml CartPole-v1 --algorithm her", "error: algorithm 'her' does not exist"),
        ("broken.yml CartPole-v1 --algorithm dqn", "broken.yml:2: is not valid YAML"),
        ("huge.yml CartPole-v1 --algorithm dqn", "huge.yml: is larger than 1 MiB"),
        ("text.yml CartPole-v1 --algorithm dqn", "text.yml:1: CartPole-v1: must be a mapping of hyperparameters"),
        ("list.yml CartPole-v1", "Missing option '--algorithm'"),
    ],
)
def test_import_zoo_refuses_bad_input_in_one_message(arguments: str, message: str, toolkit: Toolkit) -> None:
    Path("list.yml").write_text("- CartPole-v1\n")
    Path("broken.yml").write_text("a: [\n}")
    Path("huge.yml").write_text("#" * (1 << 20) + "\n")
    Path("text.yml").write_text("CartPole-v1: text\n")
    before = files_in(Path())
    result = toolkit("import-zoo", *arguments.split())
    assert (result.status, result.out) == (2, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert files_in(Path()) == before


@pytest.mark.parametrize(
    "entry",
    [
        "env_wrapper: loose.Wrapper",
        "policy_kwargs: \"dict(activation_fn='./loose.py:Wrapper')\"",
        "policy_kwargs: {activation_fn: './loose.py:Wrapper'}",
    ],
)
def test_code_outside_installed_packages_does_not_run(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("loose.py").write_text("open('executed', 'w').close()\nclass Wrapper: pass\n")
    monkeypatch.syspath_prepend(Path.cwd())
    assert "names code that is not in an installed package" in get_refusal(entry)
    assert not Path("executed").exists()


@pytest.mark.parametrize("algorithm", sorted(read_zoo_file(SAMPLE).data))
def test_sample_entry_of_every_algorithm_becomes_valid_config(algorithm: str) -> None:
    entries = yaml.safe_load(SAMPLE.read_text())[algorithm]
    Path("sample.yml").write_text(yaml.safe_dump(entries))
    for env_id in entries:
        assert find_refusal(Path("sample.yml"), env_id, algorithm) == ""


RL_ZOO = "rl_zoo3==2.9.2"
OUTCOMES = {  # entries converted, entries refused
    "a2c": (22, 0),
    "ars": (23, 0),
    "crossq": (16, 0),
    "ddpg": (20, 0),
    "dqn": (6, 0),
    "her": (0, 7),  # in a form that Zoo no longer reads
    "ppo": (31, 13),  # wrappers of minigrid and of rl_zoo3 itself
    "ppo_lstm": (31, 1),  # its default is a policy that the algorithm does not have
    "qrdqn": (6, 0),
    "sac": (23, 3),  # wrappers of rl_zoo3 itself and of ae
    "td3": (21, 0),
    "tqc": (32, 2),  # the same
    "trpo": (26, 0),
}
REASONS = (
    "module 'minigrid' does not exist",
    "module 'rl_zoo3' does not exist",
    "is from before HER",
    "has no policy",
)


@ATARI
@pytest.mark.slow
@pytest.mark.skipif(
    "TOOLKIT_TEST_RL_ZOO" not in os.environ, reason="downloads rl_zoo3: set TOOLKIT_TEST_RL_ZOO=1 to run it"
)
def test_every_published_entry_is_converted_or_refused_with_known_reason() -> None:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", RL_ZOO]
    subprocess.run(download, check=True, timeout=300)
    (wheel,) = Path().glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = [Path(name) for name in archive.namelist() if name.endswith(".yml")]
        archive.extractall(members=map(str, files))
    assert {file.stem: count_outcomes(file) for file in files} == OUTCOMES


def count_outcomes(file: Path) -> tuple[int, int]:
    """Check every entry of a file; return how many are converted and how many are refused."""
    names = [*read_zoo_file(file).data]
    stand_ins = {"atari": "PongNoFrameskip-v4", "default": "FrozenLake-v1"}
    algorithm = file.stem if file.stem != "her" else "tqc"
    reasons = [find_refusal(file, stand_ins.get(name, name), algorithm) for name in names]
    refusals = [reason for reason in reasons if reason]
    assert [reason for reason in refusals if not any(known_reason in reason for known_reason in REASONS)] == []
    return len(names) - len(refusals), len(refusals)


def find_refusal(file: Path, env_id: str, algorithm: str) -> str:
    """Convert an entry and check its config; return why it is refused, or an empty text."""
    try:
        text = import_zoo(file, env_id, algorithm)
    except ToolkitError as error:
        return str(error)
    Path("converted.yaml").write_text(text)
    assert find_wrong_paths(Path("converted.yaml")) <= {("env", "id")}
    return ""


def find_wrong_paths(config: Path) -> set[tuple[str | int, ...]]:
    try:
        tk.load_config(config)
    except ConfigError as error:
        return {problem.path for problem in error.problems}
    return set()
