from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from toolkit.config.load import load_config
from toolkit.config.schema import RunConfig
from toolkit.envs.episodes import Episode, EpisodeLog, EpisodeRecorder
from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.utils.errors import ConfigError, FaultyEnvironmentError
from toolkit.utils.seeds import derive_episode_seed

SEED = 5
CARTPOLE = "{id: CartPole-v1, n_envs: %d, wrappers: [%s]}"
CLIP = "{name: clip_reward, params: {min_reward: -1, max_reward: 1}}"
TIME_LIMIT = '{name: "gymnasium.wrappers:TimeLimit", params: {max_episode_steps: %d}}'

LIVES = """\
import gymnasium as gym


class LifeEnds(gym.Wrapper):
    '''Ends the episode at every third step, and continues the game at reset, like SB3's EpisodicLifeEnv.'''

    over = True

    def reset(self, **kwargs):
        if self.over:
            self.steps = 0
            return self.env.reset(**kwargs)
        observation, *_, info = self.step(0)
        return observation, info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.over = terminated or truncated
        self.steps += 1
        return observation, reward, terminated or self.steps % 3 == 0, truncated, info
"""

OWN_RESET_INFO = """\
import gymnasium as gym


class OwnResetInfo(gym.Wrapper):
    '''Replaces the info of a reset, like SB3's FireResetEnv.'''

    def reset(self, **kwargs):
        observation, _ = self.env.reset(**kwargs)
        return observation, {}
"""


def make_config(env: str) -> RunConfig:
    path = Path("config.yaml")
    path.write_text(f"timesteps: 100\nenv: {env}\nalgorithm: ppo\n")
    return load_config(path)


def build(env: str, **arguments: Any) -> EpisodeRecorder:
    return make_vec_env(make_config(env), seed=SEED, **arguments)


def play(env: EpisodeRecorder, steps: int, action: Any = 0) -> list[dict[str, Any]]:
    """Take one action `steps` times in every environment and return `info["episode"]` of each end, in order."""
    env.reset()
    ends = []
    for _ in range(steps):
        _, _, dones, infos = env.step(np.array([action] * env.num_envs))
        ends += [infos[index]["episode"] for index in np.flatnonzero(dones)]
    return ends


class OldInterface(gym.Env[Any, Any]):
    """Has a default seed, and no info of a reset."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = 42, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(2, np.float32), None

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), 1.0, True, False, {}


@pytest.fixture
def old_interface() -> Iterator[str]:
    gym.register("OldInterface-v0", OldInterface)
    yield "OldInterface-v0"
    del gym.registry["OldInterface-v0"]


def test_gymnasium_checks_environment_before_toolkit(old_interface: str) -> None:
    env = build(f"{{id: {old_interface}}}")
    with pytest.warns(UserWarning, match="seed"), pytest.raises(AssertionError, match="not a dictionary"):
        env.reset()


def test_reset_without_info_works_without_gymnasium_checks(old_interface: str) -> None:
    env = build(f"{{id: {old_interface}, params: {{disable_env_checker: true}}}}")
    assert [end["r"] for end in play(env, 2)] == [1.0, 1.0]


# Episodes.


class EveryStepEnds(VecEnvWrapper):
    """Says that every step is the last one, but resets nothing."""

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards, np.ones_like(dones), infos


def test_end_without_reset_records_no_episode_again() -> None:
    plain, env = (build(CARTPOLE % (2, CLIP)) for _ in range(2))
    recorder = EpisodeRecorder(EveryStepEnds(env.venv))
    plain.reset()
    recorder.reset()
    for step in range(60):
        if step == 30:  # in the middle of an episode, which no end may count later
            plain.reset()
            recorder.reset()
        for venv in (plain, recorder):
            venv.step(np.zeros(2, int))
    assert len(plain.episodes) > 4
    assert [episode[:3] for episode in recorder.episodes] == [episode[:3] for episode in plain.episodes]


def test_episode_has_raw_return_shaped_return_and_length() -> None:
    env = build("{id: CartPole-v1, wrappers: [{name: terminal_reward_clip, params: {success_steps: 195}}]}")
    play(env, 100)
    assert len(env.episodes) >= 8
    for episode in env.episodes:
        assert episode.raw_return == episode.length
        assert 8 <= episode.length <= 12
        assert episode.shaped_return == -1


def test_shaped_return_sums_rewards_after_wrappers() -> None:
    env = build(CARTPOLE % (2, f"angle_penalty, {CLIP}"))
    env.reset()
    sums, shaped = np.zeros(2), []
    for _ in range(60):
        _, rewards, dones, _ = env.step(np.zeros(2, int))
        sums += rewards
        shaped += sums[dones].tolist()
        sums[dones] = 0
    assert len(shaped) > 4
    assert [episode.shaped_return for episode in env.episodes] == pytest.approx(shaped)
    assert all(episode.shaped_return < episode.raw_return for episode in env.episodes)


def test_simultaneous_episodes_are_in_order_of_environments() -> None:
    env = build(f"{{id: Pendulum-v1, max_episode_steps: 7, n_envs: 3, wrappers: [{CLIP}]}}")
    ends = play(env, 14, [1.0])

    def raw_returns(index: int) -> list[float]:
        plain, returns = gym.make("Pendulum-v1"), []
        for seed in (SEED + index, derive_episode_seed(SEED + index, 1)):
            plain.reset(seed=seed)
            returns.append(sum(float(plain.step([1.0])[1]) for _ in range(7)))
        return returns

    first, second = zip(*(raw_returns(index) for index in range(3)), strict=True)
    assert len({*first, *second}) == 6
    assert [episode.raw_return for episode in env.episodes] == pytest.approx([*first, *second], abs=1e-4)
    assert [end["r"] for end in ends] == [episode.raw_return for episode in env.episodes]


def play_one_by_one(n_envs: int, steps: int) -> list[tuple[int, int, float, int]]:
    """Play the same seeds one environment at a time: start, environment, return and length of each episode."""
    episodes = []
    for index in range(n_envs):
        env = make_vec_env(make_config(CARTPOLE % (1, "")), seed=SEED + index)
        env.reset()
        start = 0
        for step in range(1, steps + 1):
            if env.step(np.zeros(1, int))[2][0]:
                episodes.append((start, index, float(step - start), step - start))
                start = step
        episodes.append((start, index, np.nan, 0))  # still running
    return sorted(episodes)


def test_episodes_count_in_order_of_start_once_all_earlier_ones_ended() -> None:
    env = build(CARTPOLE % (5, ""))
    play(env, 47)
    episodes = play_one_by_one(5, 47)
    first_running = min(start for start, _, _, length in episodes if not length)
    expected = [(raw, length) for start, _, raw, length in episodes if start < first_running]
    assert [(episode.raw_return, episode.length) for episode in env.episodes] == expected
    assert len({length for _, length in expected}) > 1
    timesteps = [episode.timestep for episode in env.episodes]
    ends = [5 * max(s + n for s, _, _, n in episodes if s <= start) for start, *_ in episodes[: len(expected)]]
    assert timesteps == ends
    seconds = [episode.seconds for episode in env.episodes]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] <= seconds[-1] <= env.seconds


def test_limited_episodes_are_the_first_of_each_environment() -> None:
    env = build(CARTPOLE % (3, ""))
    env.limit_episodes(5)  # as SB3's evaluate_policy: 1, 2 and 2
    play(env, 60)
    episodes = play_one_by_one(3, 60)
    shares = [[episode for episode in episodes if episode[1] == index][:n] for index, n in enumerate((1, 2, 2))]
    expected = [(raw, length) for _, _, raw, length in sorted(itertools.chain(*shares))]
    assert [(episode.raw_return, episode.length) for episode in env.episodes] == expected
    play(env, 60)
    assert len(env.episodes) == 10


def test_info_shows_episode_at_the_step_where_it_ends() -> None:
    env = build(CARTPOLE % (5, ""))
    shown = [(end["r"], end["l"]) for end in play(env, 47)]
    episodes = sorted((start + n, index, raw, n) for start, index, raw, n in play_one_by_one(5, 47) if n)
    assert shown == [(raw, length) for _, _, raw, length in episodes]


def test_reset_drops_running_episodes() -> None:
    env = build(f"{{id: CartPole-v1, n_envs: 2, max_episode_steps: 6, wrappers: [{CLIP}]}}")
    play(env, 4)
    assert env.episodes == []
    play(env, 6)
    assert [episode[:3] for episode in env.episodes] == [(6, 6, 6)] * 2


@pytest.mark.parametrize("n_envs", [1, 3])
def test_episode_truncated_by_wrapper_has_its_raw_return(n_envs: int) -> None:
    env = build(CARTPOLE % (n_envs, f"{{name: graded_terminal_reward, params: {{midpoint: 0}}}}, {TIME_LIMIT % 5}"))
    ends = play(env, 10)
    assert [(end["r"], end["l"]) for end in ends] == [(5, 5)] * 2 * n_envs
    assert [(episode.raw_return, episode.length) for episode in env.episodes] == [(5, 5)] * 2 * n_envs


@pytest.mark.filterwarnings("ignore:.*The reward is:UserWarning")
@pytest.mark.parametrize("reward", [math.inf, math.nan, -1e151])
def test_raw_return_that_is_no_finite_number_is_refused(
    reward: float, old_interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OldInterface, "step", lambda *_: (np.zeros(2, np.float32), reward, True, False, {}))
    monkeypatch.setattr(OldInterface, "reset", lambda _, *, seed=None, options=None: (np.zeros(2, np.float32), {}))
    env = build(f"{{id: {old_interface}, wrappers: [{CLIP}]}}")
    with pytest.raises(FaultyEnvironmentError, match="rewards whose sum over an episode is not finite"):
        play(env, 1)


def test_truncated_and_terminated_episodes_count_once() -> None:
    env = build(CARTPOLE % (2, TIME_LIMIT % 9))  # a pole that is pushed one way falls after 8 to 10 steps
    ends = play(env, 200)
    lengths = [episode.length for episode in env.episodes]
    assert {8, 9} == set(lengths)
    assert {8, 9} == {end["l"] for end in ends}
    assert 400 - 4 * 9 < sum(lengths) <= 400


def test_truncated_episode_counts_if_wrapper_replaces_reset_info(working_directory: Path) -> None:
    (working_directory / "own.py").write_text(OWN_RESET_INFO)
    env = build(CARTPOLE % (2, f'"./own.py:OwnResetInfo", {TIME_LIMIT % 5}'))
    env.reset()
    for _ in range(10):
        env.step(np.zeros(2, int))
    assert [episode[:3] for episode in env.episodes] == [(5, 5, 5)] * 4


def test_lost_life_is_not_an_episode(working_directory: Path) -> None:
    (working_directory / "lives.py").write_text(LIVES)
    env = build('{id: CartPole-v1, max_episode_steps: 8, wrappers: ["./lives.py:LifeEnds"]}')
    env.reset()
    dones, ends = [], []
    for _ in range(18):
        _, _, done, infos = env.step(np.zeros(1, int))
        dones.append(bool(done[0]))
        ends.append("episode" in infos[0])
    # Steps 4 and 7 of each 8-step game are taken by the reset after a lost life.
    assert dones == [False, False, True, False, True, True] * 3
    assert ends == [False, False, False, False, False, True] * 3
    assert [episode[:3] for episode in env.episodes] == [(8, 6, 6)] * 3


def replace_infos(env: EpisodeRecorder) -> None:
    """Let a vec wrapper inside the recorder replace every info, also the episode that Monitor put there."""
    step_wait = env.venv.step_wait

    def step_without_infos() -> Any:
        *values, infos = step_wait()
        return (*values, [{"episode": {"r": -1.0, "l": 0, "t": 0.0}} for _ in infos])

    env.venv.step_wait = step_without_infos


DROP_INFO = """\
import gymnasium as gym


class DropInfo(gym.Wrapper):
    def reset(self, **kwargs):
        return self.env.reset(**kwargs)[0], {}

    def step(self, action):
        return *self.env.step(action)[:4], {}
"""


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
@pytest.mark.parametrize("limit", ["max_episode_steps: 5, ", ""], ids=["inside Monitor", "outside Monitor"])
def test_raw_episodes_arrive_although_wrappers_replace_info(limit: str, vec_env: str, working_directory: Path) -> None:
    (working_directory / "drop.py").write_text(DROP_INFO)
    wrappers = '"./drop.py:DropInfo"' if limit else f'"./drop.py:DropInfo", {TIME_LIMIT % 5}'
    env = build(f"{{id: CartPole-v1, n_envs: 2, vec_env: {vec_env}, {limit}wrappers: [{wrappers}]}}")
    replace_infos(env)
    try:
        ends = play(env, 10)
    finally:
        env.close()
    assert [(end["r"], end["l"]) for end in ends] == [(5, 5)] * 4
    assert [episode[:3] for episode in env.episodes] == [(5, 5, 5)] * 4


def test_step_calls_only_step_of_environments() -> None:
    env = build(CARTPOLE % (2, TIME_LIMIT % 5))
    env.reset()
    env.venv.env_method = None  # a call into the environments would raise
    for _ in range(10):
        env.step(np.zeros(2, int))
    assert len(env.episodes) == 4


# The log.


def log_of(*raw_returns: float) -> EpisodeLog:
    return EpisodeLog(Episode(raw_return, -raw_return, 1, 0.0) for raw_return in raw_returns)


def test_mean_return_is_over_the_last_episodes() -> None:
    log = log_of(0.0, 1.0, 2.0, 6.0)
    assert (log.mean_return(2), log.mean_return(), log.mean_shaped_return(2)) == (4.0, 2.25, -4.0)
    assert log.mean_return(2, end=3) == 1.5


def test_mean_return_without_episodes_is_none() -> None:
    assert log_of().mean_return() is None
    assert log_of(1.0).mean_return(end=0) is None


def test_mean_return_is_exact_up_to_its_last_digit() -> None:
    returns = np.random.default_rng(0).normal(-800, 300, 250).tolist()
    log = log_of(*returns)
    assert log.mean_return() == float(sum(map(Fraction, returns[-100:])) / 100)
    assert log.mean_return(7, end=9) == pytest.approx(statistics.mean(returns[2:9]), rel=1e-15)


def test_log_is_a_sequence_of_episodes() -> None:
    log = log_of(1.0, 2.0)
    log.append(Episode(3.0, 0.0, 1, 0.0))
    assert [episode.raw_return for episode in log] == [1.0, 2.0, 3.0]
    assert (len(log), log[-1].raw_return, [episode.raw_return for episode in log[1:]]) == (3, 3.0, [2.0, 3.0])
    assert log == [*log]


# Seeds.


def test_derived_seeds_have_fixed_values() -> None:
    streams = ("training", "evaluation", "video", "confirmation", "callback")
    assert [derived_seed(0, stream) for stream in streams] == [939388164, 168307179, 810361218, 921498351, 304136638]


def test_derived_seeds_differ_between_streams_and_seeds() -> None:
    streams = ("training", "evaluation", "video", "confirmation", "callback")
    seeds = [derived_seed(seed, stream) for seed in [*range(100), 2**32 - 1] for stream in streams]
    assert len(set(seeds)) == len(seeds) == 505
    assert all(0 <= seed < 2**30 for seed in seeds)


def test_every_episode_seed_fits_a_signed_32_bit_integer() -> None:
    env = make_vec_env(
        make_config("{id: CartPole-v1, max_episode_steps: 5}"), seed=derived_seed(2**32 - 1, "training")
    )
    seeds: list[int] = []

    def remember(*, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        seeds.append(seed or 0)
        return original(seed=seed)

    (single,) = env.get_attr("unwrapped")
    original, single.reset = single.reset, remember
    play(env, 300)
    assert len(seeds) > 60
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert any(seed >= 2**30 for seed in seeds)


def test_unknown_stream_raises_value_error() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        derived_seed(0, "training ")


def test_environment_i_starts_with_seed_plus_i() -> None:
    observations = build(CARTPOLE % (3, "terminal_reward_clip")).reset()
    expected = [gym.make("CartPole-v1").reset(seed=SEED + index)[0] for index in range(3)]
    np.testing.assert_array_equal(observations, expected)


# What the config says.


def test_n_envs_argument_overrides_config() -> None:
    assert build(CARTPOLE % (2, "")).num_envs == 2
    assert build(CARTPOLE % (2, ""), n_envs=5).num_envs == 5


@pytest.mark.parametrize(("limit", "length"), [("", 200), (", max_episode_steps: 12", 12)])
def test_max_episode_steps_defaults_to_limit_of_environment(limit: str, length: int) -> None:
    env = build(f"{{id: Pendulum-v1{limit}}}")
    play(env, 200, [0.0])
    assert {episode.length for episode in env.episodes} == {length}


def test_reward_wrapper_sees_time_limit_as_truncation() -> None:
    env = build("{id: CartPole-v1, max_episode_steps: 5, wrappers: [{name: graded_terminal_reward}]}")
    env.reset()
    for _ in range(5):
        _, rewards, dones, infos = env.step(np.zeros(1, int))
    assert dones.all()
    assert infos[0]["TimeLimit.truncated"]
    assert rewards[0] == pytest.approx(-0.95)


def test_params_reach_gymnasium_make() -> None:
    env = build("{id: Pendulum-v1, params: {g: 2.5}, n_envs: 2}")
    assert [layers.unwrapped.g for layers in env.venv.envs] == [2.5, 2.5]


def test_wrappers_are_outside_monitor_and_wrap_is_outermost() -> None:
    env = build(CARTPOLE % (1, f"angle_penalty, {CLIP}"), wrap=gym.wrappers.Autoreset)
    names, layer = [], env.venv.envs[0]
    while isinstance(layer, gym.Wrapper):
        names.append(type(layer).__name__)
        layer = layer.env
    assert [
        name for name in names if name in ("Autoreset", "ClipReward", "AnglePenalty", "RawMonitor", "TimeLimit")
    ] == [*("Autoreset", "ClipReward", "AnglePenalty", "RawMonitor", "TimeLimit")]


def test_render_mode_argument_reaches_environment() -> None:
    assert build(CARTPOLE % (1, "")).render_mode is None
    env = build(CARTPOLE % (1, "angle_penalty"), render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (400, 600, 3)
    env.close()


@pytest.mark.parametrize(
    ("env", "path", "message"),
    [
        ("{id: Taxi-v4, wrappers: [angle_penalty]}", "env.wrappers.0", "'angle_penalty' cannot be built: ValueError"),
        (
            CARTPOLE % (2, "angle_penalty, {name: angle_penalty, params: {index: 4}}"),
            "env.wrappers.1.params.index",
            "have no number of index 4",
        ),
        (
            "{id: FrozenLake-v1, params: {map_name: 9x9}}",
            "env.params.map_name",
            "'FrozenLake-v1' cannot be built: KeyError",
        ),
    ],
    ids=["wrapper", "second_wrapper", "environment"],
)
def test_build_error_names_file_line_and_path(env: str, path: str, message: str) -> None:
    config = make_config(env)
    with pytest.raises(ConfigError) as error:
        make_vec_env(config, seed=SEED)
    (problem,) = error.value.problems
    assert ".".join(map(str, problem.path)) == path
    assert message in str(error.value)
    assert str(error.value).startswith(f"config.yaml:2: {path}: ")


MAZES = """\
import gymnasium as gym


class Grid(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)

    def __init__(self, size, render_mode=None):
        self.size = size


class Maze(Grid):
    def __init__(self, level, **others):
        super().__init__(size=3 * level, **others)


gym.register("Maze-v0", Maze)
"""


def test_parameter_that_subclass_passes_to_parent_is_not_required(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mazes.py").write_text(MAZES)
    monkeypatch.syspath_prepend(Path.cwd())
    assert make_vec_env(make_config('{id: "mazes:Maze-v0", params: {level: 2}}'), seed=SEED).get_attr("size") == [6]
    with pytest.raises(ConfigError, match=r"env\.params\.level: required parameter is missing$"):
        make_config('{id: "mazes:Maze-v0"}')
