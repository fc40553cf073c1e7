"""What training would ignore is said at the start, in one line with its place; what would fail is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import in_process_launcher
import numpy as np
import pytest
from goal_line import GOAL_LINE
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import VecNormalize
from support import CONFIGS, SMALL_CONFIG, toolkit_process

from toolkit import Run, experiment, load_config, train
from toolkit.envs.factory import make_vec_env
from toolkit.training.checks import find_config_warnings, log_config_warnings
from toolkit.training.trainer import dry_run, resume
from toolkit.tuning.tune import tune
from toolkit.utils.errors import ConfigError

HEAD = "timesteps: {timesteps}\nenv: {{id: {env}, n_envs: {n_envs}, {more}}}\n"
STACK = "{name: vec_frame_stack, params: {n_stack: 2}}"
LAUNCHER = f"launcher: {in_process_launcher.__file__}:InProcessLauncher\n"
NEVER = "it has no effect; lower it, or increase timesteps"


def write(body: str, timesteps: int = 300, env: str = "CartPole-v1", n_envs: int = 1, more: str = "") -> Path:
    """Write `c.yaml`, whose third line is the algorithm."""
    path = Path("c.yaml")
    path.write_text(HEAD.format(timesteps=timesteps, env=env, n_envs=n_envs, more=more) + body)
    return path


def normalize(params: str = "", *, outside: str = "", inside: str = "") -> str:
    """Return vec wrappers with `vec_normalize` among them."""
    names = [name for name in (inside, f"{{name: vec_normalize, params: {{{params}}}}}", outside) if name]
    return f"vec_wrappers: [{', '.join(names)}]"


DQN = "algorithm: {{name: dqn, params: {{learning_starts: 50, target_update_interval: 100, {0}}}}}\n"
GOALS = DQN.replace("{0}", "replay_buffer_class: her").replace("50", "{0}")
IMAGE_DQN = DQN.format("buffer_size: 100").replace("dqn,", "dqn, policy: CnnPolicy,")
PPO = "algorithm: {{name: ppo, params: {{n_steps: 64, {0}}}}}\n"
WARNINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "learning starts after the end": (
        "algorithm: {name: double_dqn, params: {learning_starts: 1_000}}",
        {},
        "3: algorithm.params.learning_starts: updates begin after timestep 1,000, but timesteps is 300: "
        "nothing is learnt; lower it, or increase timesteps",
    ),
    "learning starts by default after the end": (
        "algorithm: sac",
        {"timesteps": 100, "env": "Pendulum-v1"},
        "3: algorithm.params.learning_starts: updates begin after timestep 100, but timesteps is 100: "
        "nothing is learnt; lower it, or increase timesteps",
    ),
    "a rollout longer than the run": (
        "algorithm: {name: ppo, params: {gamma: 0.9}}",
        {"n_envs": 2},
        "3: algorithm.params.n_steps: a rollout is n_steps times env.n_envs, 4,096 timesteps: training ends there, "
        "not at 300; set it to at most 150",
    ),
    "steps between updates longer than the run": (
        DQN.format("train_freq: [500, step]"),
        {},
        "3: algorithm.params.train_freq: a rollout is train_freq times env.n_envs, 500 timesteps: training ends "
        "there, not at 300; set it to at most 300",
    ),
    "no gradient steps": (
        DQN.format("gradient_steps: 0"),
        {},
        "3: algorithm.params.gradient_steps: is 0: no update is made; set it above 0",
    ),
    "no learning rate": (
        PPO.format("learning_rate: 0.0"),
        {},
        "3: algorithm.params.learning_rate: is 0: no update changes a weight; set it above 0",
    ),
    "clipped gradients": (
        PPO.format("max_grad_norm: 0"),
        {},
        "3: algorithm.params.max_grad_norm: is 0: every gradient is removed; set it above 0",
    ),
    "a target network at rest": (
        "algorithm: {name: qrdqn, params: {target_update_interval: 10_000}}",
        {},
        "3: algorithm.params.target_update_interval: 10,000 is beyond the run's 300 timesteps: "
        "the target network is never updated; lower it, or increase timesteps",
    ),
    "a minibatch of more transitions than the run": (
        "algorithm: {name: double_dqn, params: {batch_size: 128, sample_with_replacement: false}}",
        {"n_envs": 3},
        "3: algorithm.params.batch_size: updates need 384 timesteps, but timesteps is 300: nothing is learnt; "
        "lower it, or increase timesteps",
    ),
    "hindsight from the start": (
        GOALS.format(0),
        {"env": GOAL_LINE},
        "3: algorithm.params.learning_starts: updates begin at timestep 4, perhaps before an episode has ended, "
        "but HerReplayBuffer samples from completed episodes; set it to the steps of an episode times env.n_envs "
        "or more",
    ),
    "hindsight in the first episodes": (
        GOALS.format(79),
        {"env": GOAL_LINE, "n_envs": 2, "more": "max_episode_steps: 45"},
        "3: algorithm.params.learning_starts: updates begin at timestep 80, perhaps before an episode has ended, "
        "but HerReplayBuffer samples from completed episodes; set it to 90 or more",
    ),
    "rewards normalized for another gamma": (
        PPO.format("gamma: 0.9"),
        {"more": normalize("gamma: 0.99")},
        "2: env.vec_wrappers.0.params.gamma: 0.99 differs from algorithm.params.gamma, 0.9: "
        "rewards are scaled for another discount; remove it, to follow the algorithm's",
    ),
    "rewards normalized by Gymnasium for another gamma": (
        PPO.format("gamma: 0.9"),
        {"more": 'wrappers: ["gymnasium.wrappers:NormalizeReward"]'},
        "2: env.wrappers.0.params.gamma: 0.99 differs from algorithm.params.gamma, 0.9: "
        "rewards are scaled for another discount; set both to one value",
    ),
    "rewards normalized in the environment for another gamma": (
        PPO.format("gamma: 0.9"),
        {"more": 'base_wrappers: ["gymnasium.wrappers:NormalizeReward"]'},
        "2: env.base_wrappers.0.params.gamma: 0.99 differs from algorithm.params.gamma, 0.9: "
        "rewards are scaled for another discount; set both to one value",
    ),
    "frames normalized before they are stacked": (
        PPO.format(""),
        {"more": normalize(outside=STACK)},
        "2: env.vec_wrappers.0: normalizes single frames, before 'vec_frame_stack' stacks them; "
        "put it after 'vec_frame_stack' to normalize whole stacks",
    ),
    "a wrapper that the replay buffer does not see": (
        DQN.format(""),
        {"more": normalize(outside="./mine.py:Mine")},
        "2: env.vec_wrappers.1: is outside 'vec_normalize': the replay buffer does not hold what it changes; "
        "put it before 'vec_normalize'",
    ),
    "success only after the end": (
        PPO.format("") + "callbacks: [{name: success, params: {threshold: 1, min_timesteps: 1_000}}]",
        {},
        f"4: callbacks.0.params.min_timesteps: 1,000 is beyond the run's 300 timesteps: {NEVER}",
    ),
    "videos only after the end": (
        PPO.format("") + "callbacks: [{name: record_video, params: {every_timesteps: 1_000, at_end: true}}]",
        {},
        f"4: callbacks.0.params.every_timesteps: 1,000 is beyond the run's 300 timesteps: {NEVER}",
    ),
    "videos of a success that is not defined": (
        PPO.format("") + "callbacks: [{name: record_video, params: {on_success: true}}]",
        {},
        "4: callbacks.0.params.on_success: has no effect without a success criterion; add the callback 'success'",
    ),
    "files only after the end": (
        PPO.format("")
        + "callbacks: [{name: 'stable_baselines3.common.callbacks:CheckpointCallback', "
        + "params: {save_freq: 100, save_path: x}}]",
        {"n_envs": 4, "timesteps": 256},
        "4: callbacks.0.params.save_freq: 100 calls take 400 timesteps, which is beyond the run's 256 timesteps: "
        + NEVER,
    ),
    "a time limit of subprocesses": (
        PPO.format(""),
        {"more": "step_timeout: 3"},
        "2: env.step_timeout: has no effect in this process; set env.vec_env to subproc",
    ),
}
MINE = "from stable_baselines3.common.vec_env import VecEnvWrapper\n\nclass Mine(VecEnvWrapper):\n    pass\n"


@pytest.mark.parametrize(("body", "head", "line"), WARNINGS.values(), ids=WARNINGS)
def test_ignored_value_is_said_in_one_line_with_its_place(
    body: str, head: dict[str, Any], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    Path("mine.py").write_text(MINE)
    log_config_warnings(load_config(write(body, **head)))
    assert caplog.messages == [f"c.yaml:{line}"]


VALID = {
    "learning starts in the last rollout": (
        "algorithm: {name: sac, params: {learning_starts: 50, train_freq: 4}}",
        {"env": "Pendulum-v1", "timesteps": 50},
    ),
    "updates after episodes": (DQN.format("train_freq: [1, episode]"), {}),
    "a gradient step for each step": (DQN.format("gradient_steps: -1"), {}),
    "the same gamma twice": (PPO.format("gamma: 0.9"), {"more": normalize("gamma: 0.9")}),
    "the algorithm's gamma alone": (PPO.format("gamma: 0.9"), {"more": normalize()}),
    "observations normalized": (PPO.format("gamma: 0.9"), {"more": normalize("gamma: 0.5, norm_reward: false")}),
    "rewards of frames normalized": (PPO.format(""), {"more": normalize("norm_obs: false", outside=STACK)}),
    "stacks normalized": (DQN.format(""), {"more": normalize(inside=STACK)}),
    "a subprocess with a time limit": (PPO.format(""), {"more": "step_timeout: 3, vec_env: subproc"}),
    "a target network at rest by default": ("algorithm: dqn", {}),
    "target updates by episodes": (
        "algorithm: {name: double_dqn, params: {learning_starts: 50, target_update_interval: [1, episode]}}",
        {},
    ),
    "a soft target": ("algorithm: {name: sac, params: {target_update_interval: 1_000}}", {"env": "Pendulum-v1"}),
    "hindsight after whole episodes": (
        GOALS.format(90),
        {"env": GOAL_LINE, "n_envs": 2, "more": "max_episode_steps: 45"},
    ),
    "hindsight with demonstrations": (
        GOALS.format(0) + "callbacks: [{name: demonstrations, params: {path: a.npz}}]",
        {"env": GOAL_LINE},
    ),
    "random search": ("algorithm: {name: ars, policy: LinearPolicy}", {}),
}


@pytest.mark.parametrize(("body", "head"), VALID.values(), ids=VALID)
def test_valid_config_gives_no_warning(body: str, head: dict[str, Any]) -> None:
    assert find_config_warnings(load_config(write(body, **head))) == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_gives_no_warning(config: Path) -> None:
    assert find_config_warnings(load_config(config)) == []


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "frames normalized before they are stacked": (
        DQN.format(""),
        {"more": normalize(outside=STACK)},
        "2: env.vec_wrappers.0: the replay buffer of 'dqn' needs it outside 'vec_frame_stack', which changes "
        "observations; put 'vec_normalize' after 'vec_frame_stack'",
    ),
    "images normalized before SB3 transposes them": (
        IMAGE_DQN,
        {"env": "Images-v0", "more": normalize("norm_obs: false")},
        "2: env.vec_wrappers.0: the replay buffer of 'dqn' needs it outside 'VecTransposeImage', which changes "
        "observations; put 'stable_baselines3.common.vec_env:VecTransposeImage' before 'vec_normalize'",
    ),
    "a text that the algorithm cannot read": (
        "algorithm: {name: sac, params: {target_entropy: automatic}}",
        {"env": "Pendulum-v1"},
        "3: algorithm.params.target_entropy: 'sac' cannot be built: ValueError: could not convert string to float: ",
    ),
    "returns of a distribution in the wrong order": (
        "algorithm: {name: double_dqn, policy_params: {distribution: c51, v_min: 9, v_max: 3}}",
        {},
        "3: algorithm.policy_params.v_min: v_min must be below v_max, both finite, not 9",
    ),
    "a distribution without its range": (
        "algorithm: {name: double_dqn, policy_params: {distribution: c51}}",
        {},
        "3: algorithm.policy_params.distribution: distribution='c51' needs v_min and v_max",
    ),
    "atoms without a distribution": (
        "algorithm: {name: double_dqn, policy_params: {n_atoms: 51}}",
        {},
        "3: algorithm.policy_params.n_atoms: n_atoms needs distribution='c51'",
    ),
    "a distribution that does not exist": (
        "algorithm: {name: double_dqn, policy_params: {distribution: iqn}}",
        {},
        "3: algorithm.policy_params.distribution: should be ",
    ),
    "a loss beside that of a distribution": (
        "algorithm: {name: double_dqn, params: {loss: huber}, policy_params: {distribution: qr}}",
        {},
        "3: algorithm.params.loss: 'double_dqn' cannot be built: ValueError: loss cannot be given with a policy's",
    ),
    "noise in an algorithm that never draws it": (
        "algorithm: {name: dqn, policy: DuelingMlpPolicy, policy_params: {noisy: true}}",
        {},
        "3: algorithm.name: 'dqn' cannot train a policy with noisy; choose double_dqn",
    ),
    "a device of another machine": (
        PPO.format("device: 'cuda:7'"),
        {},
        "3: algorithm.params.device: PyTorch cannot use 'cuda:7' on this machine: ",
    ),
    "a device that does not exist": (
        PPO.format("device: gpu"),
        {},
        "3: algorithm.params.device: PyTorch cannot use 'gpu' on this machine: ",
    ),
}


class Images(gymnasium.Env[np.ndarray, int]):
    """Shows black images, and ends after a tenth of the steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros((36, 36, 1), np.uint8), {}

    def step(self, action: int) -> Any:
        return np.zeros((36, 36, 1), np.uint8), 1.0, bool(self.np_random.random() < 0.1), False, {}


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.registry, "Images-v0", EnvSpec("Images-v0", entry_point=Images))


@pytest.mark.parametrize(("body", "head", "line"), REFUSED.values(), ids=REFUSED)
def test_config_that_would_fail_or_change_in_training_is_refused(body: str, head: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"c.yaml:{line}")):
        dry_run(load_config(write(body, **head)))


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (DQN.format("buffer_size: 100"), {"more": normalize(inside=STACK)}),
        (
            IMAGE_DQN,
            {
                "env": "Images-v0",
                "more": normalize("norm_obs: false", inside='"stable_baselines3.common.vec_env:VecTransposeImage"'),
            },
        ),
    ],
    ids=["stacks", "images"],
)
def test_order_that_refusal_proposes_trains(body: str, head: dict[str, Any]) -> None:
    run = train(load_config(write(body, timesteps=120, **head)))
    assert (run.result or {})["status"] == "finished"


@pytest.mark.parametrize(("params", "expected"), [("gamma: 0.9", 0.9), ("", 0.99)])
def test_normalizer_without_gamma_takes_that_of_the_algorithm(params: str, expected: float) -> None:
    config = load_config(write(PPO.format(params), more=normalize("clip_reward: 5.0")))
    env = make_vec_env(config, seed=0)
    assert isinstance(env.venv, VecNormalize)
    assert env.venv.gamma == expected
    env.close()


def test_check_and_train_say_each_warning_once(config_file: Path) -> None:
    config_file.write_text(SMALL_CONFIG.replace("learning_starts: 50", "learning_starts: 500"))
    line = (
        "warning: small.yaml:11: algorithm.params.learning_starts: updates begin after timestep 500, "
        "but timesteps is 300: nothing is learnt; lower it, or increase timesteps\n"
    )
    for command in (["check", config_file.name], ["train", config_file.name, "--quiet"]):
        process = toolkit_process(command)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, line), command


def test_python_warning_is_one_line_with_its_place_in_the_config() -> None:
    write(
        "algorithm: {name: ppo, params: {n_steps: 50, batch_size: 64}}\n",
        env="CartPole-v0",
        n_envs=2,
        more="vec_env: subproc",
    )
    process = toolkit_process(["check", "c.yaml"])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    environment, batches = errors.splitlines()
    assert environment.startswith("warning: c.yaml:2: env: The environment CartPole-v0 is out of date.")
    assert batches.startswith("warning: c.yaml:3: algorithm: You have specified a mini-batch size of 64, but")
    assert "\x1b" not in errors


def test_experiment_says_what_a_variant_ignores_before_it_trains(caplog: pytest.LogCaptureFixture) -> None:
    write(DQN.format("buffer_size: 100"), timesteps=100)
    Path("exp.yaml").write_text(
        "base: c.yaml\nseeds: 2\nevaluation_episodes: 1\nvariants:\n  late: {algorithm.params.learning_starts: 200}\n"
        f"  early: {{}}\n{LAUNCHER}"
    )
    experiment("exp.yaml")
    assert caplog.messages == [
        "exp.yaml:5: variants.late.algorithm.params.learning_starts: updates begin after timestep 200, but timesteps "
        "is 100: nothing is learnt; lower it, or increase timesteps"
    ]


def test_search_says_where_it_leaves_the_gamma_of_a_normalizer(caplog: pytest.LogCaptureFixture) -> None:
    write(PPO.format("gamma: 0.99"), timesteps=64, more=normalize("gamma: 0.99"))
    Path("search.yaml").write_text(
        f"base: c.yaml\nsearch:\n  algorithm.params.gamma: {{low: 0.5, high: 0.9}}\ntrials: 1\n{LAUNCHER}"
    )
    tune(Path("search.yaml"))
    assert caplog.messages == [
        "search.yaml:3: search.algorithm.params.gamma.low: env.vec_wrappers.0.params.gamma: 0.99 differs from "
        "algorithm.params.gamma, 0.5: rewards are scaled for another discount; remove it, to follow the algorithm's"
    ]


def test_run_of_a_missing_device_evaluates_and_resumes_on_the_cpu(
    run_copy: Run, caplog: pytest.LogCaptureFixture
) -> None:
    config = run_copy.directory / "config.yaml"
    config.write_text(config.read_text().replace("compile: false", "compile: false, device: 'cuda:7'"))
    run = Run.open(run_copy.directory)
    assert len(run.evaluate(episodes=2).returns) == 2
    assert not caplog.messages
    (run.directory / "result.json").unlink()
    resume(run)
    assert "this machine has no 'cuda:7': training continues differently, on the CPU" in caplog.text
    assert re.search(r"config\.yaml:\d+: algorithm\.params\.device: ", caplog.text)


@pytest.mark.parametrize("more", ["", "vec_env: subproc"])
def test_maskable_algorithm_without_masks_is_refused(more: str) -> None:
    config = load_config(write("algorithm: maskable_ppo\n", more=more))
    with pytest.raises(ConfigError, match=r"^c.yaml:3: algorithm.name: .*needs action_masks.*CartPole-v1"):
        dry_run(config)
