"""With `env.vec_env: vector` all environments step in one call, on arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import find_differences, make_config, train_with_interruptions
from support import Toolkit

from toolkit import load
from toolkit.config.load import load_config
from toolkit.envs.factory import make_vec_env
from toolkit.training.trainer import train
from toolkit.utils.errors import ConfigError, FaultyEnvironmentError
from toolkit_plugins.vector_envs import Acrobot, CartPole, MountainCar
from toolkit_plugins.wrappers.rewards import AnglePenalty, GradedTerminalReward, TerminalRewardClip

WALK = """\
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

class Walk(VectorEnv):
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs, goal=3, max_episode_steps=12):
        self.num_envs, self.goal, self.limit = num_envs, goal, max_episode_steps
        self.single_observation_space = gym.spaces.Box(-99, 99, (1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.places, self.steps = np.zeros(self.num_envs), np.zeros(self.num_envs, int)
        return self.observe(), {}

    def observe(self):
        return self.places[:, None].astype(np.float32)

    def step(self, actions):
        self.places += 2 * actions - 1 + self.np_random.uniform(0, 0.1, self.num_envs)
        self.steps += 1
        terminated, truncated = abs(self.places) > self.goal, self.steps >= self.limit
        rewards, ended, info = (self.places > self.goal) * 1.0, terminated | truncated, {}
        if ended.any():
            info = {"final_obs": self.observe(), "final_info": {"is_success": rewards > 0}}
            self.places[ended], self.steps[ended] = 0, 0
        return self.observe(), rewards, terminated, truncated, info

class Told(Walk):
    def step(self, actions):
        *results, info = super().step(actions)
        ended, places = results[2] | results[3], np.round(info["final_obs"][:, 0] if info else self.places)
        info = {"place": np.round(self.places), "_place": ~ended}
        if ended.any():
            info["start"], info["_start"] = np.round(self.places), ended
            info["final_obs"] = places[:, None].astype(np.float32)
            info["final_info"] = {
                "place": places, "_place": ended, "is_success": places > 0, "_is_success": ended
            }
        return *results, info

class Late(Walk):
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

class Locked(Walk):
    def __init__(self, num_envs):
        super().__init__(num_envs)
        self.engine = (number for number in range(9))

class Modeless(Walk):
    metadata = {}

class Lonely(Walk):
    def __init__(self, num_envs):
        super().__init__(1)

class Coarse(Walk):
    def __init__(self, num_envs):
        super().__init__(num_envs)
        self.single_observation_space = gym.spaces.Box(0, 255, (1,), np.uint8)

class Precise(Walk):
    def observe(self):
        return self.places[:, None]

class Simulated(Walk):
    def __init__(self, num_envs):
        super().__init__(num_envs)
        self.env = (number for number in range(9))

class Masked(Walk):
    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def reset(self, *, seed=None, options=None):
        if options is None:
            return super().reset(seed=seed)
        self.places[options["reset_mask"]] = self.steps[options["reset_mask"]] = 0
        return self.observe(), {}

    def step(self, actions):
        self.places += 2 * actions - 1
        self.steps += 1
        info = {"place": self.places.copy(), "_place": np.ones(self.num_envs, bool)}
        terminated, truncated = abs(self.places) > self.goal, self.steps >= self.limit
        return self.observe(), np.ones(self.num_envs), terminated, truncated, info

def make_walk():
    return Walk(4)

class VectorShort(VectorWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.counts, self.total = np.zeros(env.num_envs, int), 0

    def reset(self, *, seed=None, options=None):
        self.counts[(options or {}).get("reset_mask", slice(None))] = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, actions):
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        self.counts += 1
        self.total += 1
        return observations, rewards, terminated, truncated | (self.counts >= 2), info

class Short(gym.Wrapper):
    vector_form = VectorShort

class Textual(Walk):
    def __init__(self, num_envs):
        super().__init__(num_envs)
        self.single_observation_space = gym.spaces.Text(3)

class Plain(gym.Wrapper):
    pass
"""
CONFIG = """\
timesteps: 300
env:
  id: ./walk.py:Walk
  vec_env: vector
  n_envs: 4
algorithm: {name: a2c, policy_params: {net_arch: [4]}}
snapshots: {every_timesteps: 60}
"""


@pytest.fixture(autouse=True)
def config(working_directory: Path) -> Path:
    """A config whose environment is a class of Gymnasium's `VectorEnv`, and the file with the class."""
    Path("walk.py").write_text(WALK)
    Path("walk.yaml").write_text(CONFIG)
    return Path("walk.yaml")


def test_run_of_64_poles_trains_evaluates_and_is_filmed(toolkit: Toolkit) -> None:
    Path("poles.yaml").write_text(
        "timesteps: 6_400\n"
        "env: {id: CartPole-v1, n_envs: 64, vec_env: vector, wrappers: [terminal_reward_clip]}\n"
        "algorithm: {name: double_dqn, params: {learning_starts: 6_000}, policy_params: {net_arch: [8]}}\n"
    )
    assert toolkit("train", "poles.yaml", "--out", "run", "--quiet").status == 0
    assert toolkit("evaluate", "run", "--episodes", "2").status == 0
    assert toolkit("record", "run", "--format", "gif").status == 0
    assert load("run").result["episodes"] > 100
    rows = [line.split(",") for line in Path("run/monitor.csv").read_text().splitlines()[2:]]
    assert all(float(row[0]) == float(row[1]) for row in rows)  # raw returns, not the wrapper's


@pytest.mark.parametrize(("env_id", "wrappers"), [("CartPole-v1", ["graded_terminal_reward"]), ("Acrobot-v1", [])])
def test_run_of_batch_resumes_exactly(env_id: str, wrappers: list[str], working_directory: Path) -> None:
    config = make_config(env={"id": env_id, "n_envs": 4, "vec_env": "vector", "wrappers": wrappers})
    whole = train(config, Path("whole"))
    assert find_differences(whole.directory, train_with_interruptions(config, Path("stopped")).directory) == []


def test_class_of_vector_env_trains_and_resumes_exactly(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    resolved = load_config(config)
    whole = train(resolved, Path("whole"))
    stopped = train_with_interruptions(resolved, Path("stopped"), (110, 190))
    assert find_differences(whole.directory, stopped.directory) == []
    assert caplog.messages == []


def test_batch_with_foreign_state_says_so_and_resumes_with_new_episodes(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    locked = load_config(config, ["env.id=./walk.py:Locked"])
    resumed = train_with_interruptions(locked, Path("stopped"), (110,))
    assert resumed.result["timesteps"] == 300
    assert "not exact after `toolkit resume`: Locked: engine" in caplog.messages
    assert "environment 0 cannot continue its episodes (Locked: engine): new episodes start" in caplog.messages
    assert not [message for message in caplog.messages if message.startswith("environment 1")]


def test_batch_leaves_steps_as_sb3_expects_them(config: Path) -> None:
    env = make_vec_env(load_config(config), seed=0)
    env.reset()
    for _ in range(2):
        assert not env.step(np.ones(4, int))[2].any()
    observations, rewards, dones, infos = env.step(np.ones(4, int))
    assert rewards.dtype == np.float32
    assert dones.all()
    assert (rewards == 1).all()
    assert (observations == 0).all()
    assert all(info["terminal_observation"][0] > 3 for info in infos)
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(1, 3)] * 4
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * 4
    assert [episode.is_success for episode in env.episodes] == [1.0] * 4


def test_info_of_environments_whose_episode_goes_on_is_kept(config: Path) -> None:
    env = make_vec_env(load_config(config, ["env.id=./walk.py:Told"]), seed=0)
    env.reset()
    for _ in range(2):
        env.step(np.array([0, 1, 0, 1]))
    _, _, dones, infos = env.step(np.array([1, 1, 1, 1]))
    assert [*dones] == [False, True, False, True]
    assert [info.get("place") for info in infos] == [-1, 3, -1, 3]
    assert [info.get("is_success") for info in infos] == [None, True, None, True]
    assert [info.get("start") for info in env.unwrapped.reset_infos] == [None, 0, None, 0]


def test_wrapper_may_end_episodes_of_batch(config: Path) -> None:
    overrides = ["env.id=./walk.py:Masked", "env.wrappers=[./walk.py:Short]"]
    env = make_vec_env(load_config(config, overrides), seed=0)
    env.reset()
    for _ in range(4):
        *_, infos = env.step(np.array([0, 1, 0, 1]))
    assert [info["TimeLimit.truncated"] for info in infos] == [True] * 4
    assert [(episode.raw_return, episode.length) for episode in env.episodes] == [(2, 2)] * 8


def test_wrapper_cannot_end_episodes_of_batch_that_resets_itself(config: Path) -> None:
    env = make_vec_env(load_config(config, ["env.wrappers=[./walk.py:Short]"]), seed=0)
    env.reset()
    env.step(np.ones(4, int))
    with pytest.raises(FaultyEnvironmentError, match=r"Walk resets by itself, so a wrapper cannot end its episodes"):
        env.step(np.ones(4, int))


def test_observations_of_batch_have_the_type_of_their_space(config: Path) -> None:
    env = make_vec_env(load_config(config, ["env.id=./walk.py:Precise"]), seed=0)
    assert env.reset().dtype == np.float32  # type: ignore[union-attr]
    assert env.step(np.ones(4, int))[0].dtype == np.float32  # type: ignore[union-attr]
    coarse = make_vec_env(load_config(config, ["env.id=./walk.py:Coarse"]), seed=0)
    with pytest.raises(FaultyEnvironmentError, match="its space has uint8, which loses fractions"):
        coarse.reset()


def test_simulator_under_any_name_is_named_at_the_start(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(load_config(config, ["env.id=./walk.py:Simulated", "timesteps=20"]), Path("run"))
    assert "not exact after `toolkit resume`: Simulated: env" in caplog.messages


def test_what_wrappers_of_batch_have_learned_is_missed_with_a_warning(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ["env.id=./walk.py:Masked", "env.wrappers=[./walk.py:Short]", "timesteps=20"]
    train(load_config(config, overrides), Path("run"))
    (message,) = caplog.messages
    assert message.endswith("does not have wrapper VectorShort: total: evaluation starts with the initial value")


def test_resumed_batch_starts_other_episodes_than_the_first(config: Path) -> None:
    env = make_vec_env(load_config(config, ["env.id=./walk.py:Locked"]), seed=0)
    env.reset()
    first = env.step(np.ones(4, int))[0]
    (state, *_) = env.env_method("replay_state")
    env.env_method("drop_episode", state, indices=[0])
    *_, dones, _ = env.step(np.ones(4, int))
    assert dones.all()
    assert not np.allclose(env.step(np.ones(4, int))[0], first)  # type: ignore[arg-type]


def test_attribute_is_found_in_any_layer_of_batch(config: Path) -> None:
    env = make_vec_env(load_config(config, ["env.params={goal: 7}"]), seed=0)
    assert env.get_attr("goal") == [7] * 4
    assert not env.has_attr("nothing")


def test_time_limit_truncates_in_batch(config: Path) -> None:
    env = make_vec_env(load_config(config, ["env.max_episode_steps=2"]), seed=0)
    env.reset()
    env.step(np.array([0, 1, 0, 1]))
    *_, infos = env.step(np.array([1, 0, 1, 0]))
    assert [info["TimeLimit.truncated"] for info in infos] == [True] * 4


def test_info_keywords_come_from_last_step_of_batch(config: Path) -> None:
    env = make_vec_env(load_config(config, ["env.info_keywords=[is_success]"]), seed=0)
    env.reset()
    for _ in range(4):
        env.step(np.array([0, 1, 1, 1]))
    assert [dict(episode.extras)["is_success"] for episode in env.episodes] == ["False", "True", "True", "True"]


def test_evaluation_plays_class_of_vector_env_alone(config: Path) -> None:
    env = make_vec_env(load_config(config, ["env.wrappers=[terminal_reward_clip]"]), seed=0, n_envs=1)
    env.reset()
    for _ in range(3):
        *_, infos = env.step(np.array([1]))
    assert infos[0]["episode"]["r"] == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env.vec_env=dummy"], "walk.py:Walk' steps several environments in one call; set env.vec_env to vector"),
        (["env.id=./walk.py:Late"], "env.vec_env: cannot be vector: Late resets environments only in the step after"),
        (["env.id=./walk.py:Textual"], "env: 'Textual' has an observation space that SB3 does not support: Text"),
        (
            ["algorithm={name: dqn, params: {replay_buffer_class: her}}"],
            "algorithm.params.replay_buffer_class: cannot ask environments for the rewards of other goals",
        ),
        (
            ["env.id=FrozenLake-v1"],
            "env.vec_env: cannot be vector: Gymnasium and the plugins have no vectorized version of 'FrozenLake-v1'",
        ),
        (
            ["env.wrappers=[./walk.py:Plain]"],
            "walk.py:Plain' has no vector_form, which env.vec_env: vector needs; set it to a subclass",
        ),
        (
            ["env.base_wrappers=[zero_start]"],
            "env.base_wrappers.0: 'zero_start' has no vector_form, which env.vec_env: vector needs",
        ),
        (["env.reset_options={a: 1}"], "env.reset_options: cannot be set with env.vec_env: vector"),
        (["env.step_timeout=3"], "env.step_timeout: cannot be set with env.vec_env: vector"),
        (["env.params={goal: {per_env: {start: 1}}}"], "env.params: cannot have per_env with env.vec_env: vector"),
        (
            ["env.wrappers=[{name: angle_penalty, params: {index: {per_env: [0, 0, 0, 0]}}}]"],
            "env.wrappers.0.params: cannot have per_env with env.vec_env: vector",
        ),
        (["callbacks=[record_video]"], "callbacks.0: cannot make videos: 'Walk' takes no render_mode"),
        (["env.id=./walk.py:Modeless"], "env.id: cannot be used: metadata['autoreset_mode'] of Modeless is None; set"),
        (["env.id=./walk.py:Lonely"], "env.n_envs: cannot be 4: Lonely makes 1 environments"),
        (["env.id=./walk.py:make_walk", "env.vec_env=dummy"], "name the class itself, with env.vec_env: vector"),
        (["env.params={gaol: 2}"], "env.params.gaol: unknown parameter; did you mean 'goal'?"),
        (["env.params={num_envs: 2}"], "env.params.num_envs: cannot be set here: it comes from env.n_envs"),
    ],
)
def test_what_has_no_batch_form_is_refused(overrides: list[str], message: str, config: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_vec_env(load_config(config, overrides), seed=0)
    assert message in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    wrapper=st.one_of(
        st.builds(lambda steps: (TerminalRewardClip, {"success_steps": steps}), st.integers(5, 40)),
        st.builds(
            lambda midpoint, scale, keeps: (
                GradedTerminalReward,
                {"midpoint": midpoint, "scale": scale, "keep_step_rewards": keeps},
            ),
            st.integers(0, 60),
            st.floats(-3, 3),
            st.booleans(),
        ),
        st.builds(
            lambda scale, index: (AnglePenalty, {"scale": scale, "index": index}), st.floats(0, 9), st.integers(0, 3)
        ),
    ),
)
def test_rewards_of_batch_are_those_of_single_wrappers(seed: int, wrapper: tuple[Any, dict[str, Any]]) -> None:
    cls, params = wrapper
    singles = [cls(gym.make("CartPole-v1", max_episode_steps=30), **params) for _ in range(3)]
    factories = [lambda: gym.make("CartPole-v1", max_episode_steps=30)] * 3
    batch = cls.vector_form(SyncVectorEnv(factories, autoreset_mode=AutoresetMode.DISABLED), **params)
    batch.reset(seed=seed)
    for index, single in enumerate(singles):
        single.reset(seed=seed + index)
    for actions in np.random.default_rng(seed).integers(0, 2, (40, 3)):
        _, rewards, terminations, truncations, _ = batch.step(actions)
        assert [*rewards] == [single.step(action)[1] for single, action in zip(singles, actions, strict=True)]
        if (ended := terminations | truncations).any():
            batch.reset(options={"reset_mask": ended})
            for index in np.flatnonzero(ended):
                singles[index].reset()


def test_poles_of_batch_fall_as_those_of_gymnasium() -> None:
    poles, single = CartPole(num_envs=2), gym.make("CartPole-v1")
    observations, _ = poles.reset(seed=3)
    single.reset(seed=0)
    single.unwrapped.state = poles.state[:, 1].copy()  # type: ignore[attr-defined,index]
    terminated = False
    while not terminated:
        observations, rewards, terminations, truncations, _ = poles.step(np.ones(2, int))
        observation, reward, terminated, _, _ = single.step(1)
        assert np.allclose(observations[1], observation, atol=1e-6)
        assert (rewards[1], terminations[1], truncations[1]) == (reward, terminated, False)
    others = poles.state[:, ~terminations].copy()  # type: ignore[index]
    started, _ = poles.reset(options={"reset_mask": terminations})
    assert (abs(started[terminations]) <= 0.05).all()
    assert (poles.state[:, ~terminations] == others).all()  # type: ignore[index]


@pytest.mark.parametrize("is_sutton_barto", [False, True])
def test_batch_of_poles_computes_what_gymnasium_does_to_the_bit(is_sutton_barto: bool) -> None:
    params = {"num_envs": 5, "max_episode_steps": 30, "sutton_barto_reward": is_sutton_barto}
    ours, theirs = CartPole(**params), CartPoleVectorEnv(**params)
    for poles in (ours, theirs):
        poles.reset(seed=4)
    for actions in np.random.default_rng(5).integers(0, 2, (100, 5)):
        *results, _ = ours.step(actions)
        *expected, _ = theirs.step(actions)
        assert [(array.dtype, array.tobytes()) for array in results] == [
            (array.dtype, array.tobytes()) for array in expected
        ]
        ours.reset(options={"reset_mask": results[2] | results[3]})
        theirs.state, theirs.steps[:], theirs.prev_done[:] = ours.state.copy(), ours.steps, False


@pytest.mark.parametrize("actions", [np.array([0, 2]), np.array([1])])
def test_batch_of_poles_refuses_wrong_actions(actions: Any) -> None:
    poles = CartPole(num_envs=2)
    poles.reset(seed=0)
    with pytest.raises(AssertionError, match="invalid"):
        poles.step(actions)


@pytest.mark.parametrize(
    ("cls", "env_id", "velocity"), [(Acrobot, "Acrobot-v1", 3), (MountainCar, "MountainCar-v0", 1)]
)
def test_batch_of_classic_control_moves_as_single_environments(cls: Any, env_id: str, velocity: int) -> None:
    batch, singles = cls(num_envs=3), [gym.make(env_id) for _ in range(3)]
    batch.reset(seed=5)
    for single in singles:
        single.reset()
    n_arrivals = 0
    for _ in range(250):
        for index, single in enumerate(singles):
            single.unwrapped.state = batch.state[:, index].copy()  # type: ignore[attr-defined]
        actions = np.where(batch.state[velocity] > 0, 2, 0)  # which swings up
        observations, rewards, terminations, truncations, _ = batch.step(actions)
        for index, single in enumerate(singles):
            observation, *results, _ = single.step(actions[index])
            assert np.allclose(observations[index], observation, atol=1e-6)
            assert [rewards[index], terminations[index], truncations[index]] == results
        n_arrivals += terminations.sum()
        if (ended := terminations | truncations).any():
            batch.reset(options={"reset_mask": ended})
            for index in np.flatnonzero(ended):
                singles[index].reset()
    assert n_arrivals >= 3


@pytest.mark.parametrize(("cls", "env_id"), [(Acrobot, "Acrobot-v1"), (MountainCar, "MountainCar-v0")])
def test_batch_of_classic_control_starts_as_single_environments(cls: Any, env_id: str) -> None:
    batch, single = cls(num_envs=200), gym.make(env_id)
    observations, _ = batch.reset(seed=6)
    starts = np.array([single.reset(seed=seed)[0] for seed in range(200)])
    assert np.allclose(observations.min(axis=0), starts.min(axis=0), atol=0.02)
    assert np.allclose(observations.max(axis=0), starts.max(axis=0), atol=0.02)
    moved, *_ = batch.step(np.zeros(200, int))
    started, _ = batch.reset(options={"reset_mask": np.arange(200) < 2})
    assert (started[2:] == moved[2:]).all()
    assert (started[:2] != moved[:2]).any()
