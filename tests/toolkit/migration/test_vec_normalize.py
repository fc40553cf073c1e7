"""Statistics of ``VecNormalize`` are read as SB3 saved them. A hostile file is refused in one line."""

from __future__ import annotations

import os
import pickle
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from toolkit.migration.vec_normalize import RunningStatistics, read_statistics
from toolkit.utils.errors import RunError

FILE, MARKER = Path("vecnormalize.pkl"), Path("executed")
BOX = spaces.Box(-1, 1, (3,), seed=0)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": BOX,
    "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "dict": spaces.Dict({"a": BOX, "b": spaces.Discrete(3)}),
}
ACTIONS = [spaces.Discrete(3, start=1, seed=1), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4), BOX]


class RandomEnv(gym.Env[Any, Any]):
    """An environment that returns samples of its spaces."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, False, False, {}


def make_normalizer(observations: str = "vector", action_space: spaces.Space[Any] = BOX) -> VecNormalize:
    space = OBSERVATIONS[observations]
    venv = DummyVecEnv([lambda: RandomEnv(space, action_space)] * 2)
    normalizer = VecNormalize(venv, clip_obs=5.0, norm_obs_keys=["a"] if observations == "dict" else None)
    normalizer.reset()
    for _ in range(5):
        normalizer.step(np.array([action_space.sample()] * 2))
    return normalizer


def assert_equal(statistics: Any, expected: RunningMeanStd) -> None:
    assert isinstance(statistics, RunningStatistics)
    assert statistics.mean.tolist() == np.asarray(expected.mean).tolist()
    assert statistics.variance.tolist() == np.asarray(expected.var).tolist()
    assert statistics.count == expected.count


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_statistics_are_those_that_sb3_saved(
    observations: str, action_space: spaces.Space[Any], protocol: int
) -> None:
    normalizer: Any = make_normalizer(observations, action_space)
    FILE.write_bytes(pickle.dumps(normalizer, protocol))
    saved = read_statistics(FILE)
    if isinstance(saved.observations, dict):
        assert saved.observations.keys() == {"a"}
        assert_equal(saved.observations["a"], normalizer.obs_rms["a"])
    else:
        assert_equal(saved.observations, normalizer.obs_rms)
    assert_equal(saved.returns, normalizer.ret_rms)
    keys = ["a"] if observations == "dict" else None
    assert saved.settings == {"norm_obs": True, "norm_obs_keys": keys, "clip_obs": 5.0, "epsilon": 1e-8}


def test_statistics_written_with_gym_and_numpy_1_are_read() -> None:
    normalizer: Any = make_normalizer()
    content = pickle.dumps(normalizer, protocol=3)
    former = content.replace(b"numpy._core", b"numpy.core").replace(b"cgymnasium.spaces", b"cgym.spaces")
    assert former != content
    FILE.write_bytes(former)
    assert_equal(read_statistics(FILE).observations, normalizer.obs_rms)


def test_float32_and_fortran_order_are_converted() -> None:
    normalizer: Any = make_normalizer("image")
    mean = np.asfortranarray(np.arange(48, dtype=np.float32).reshape(4, 4, 3))
    normalizer.obs_rms.mean, normalizer.obs_rms.count = mean, np.float64(7)
    normalizer.save(FILE)
    statistics: Any = read_statistics(FILE).observations
    assert statistics.mean.dtype == np.float64
    assert (statistics.mean == mean).all()
    assert statistics.count == 7


def test_statistics_of_rewards_alone_have_no_observations() -> None:
    normalizer = VecNormalize(DummyVecEnv([lambda: RandomEnv(BOX, BOX)]), norm_obs=False)
    normalizer.save(FILE)
    saved = read_statistics(FILE)
    assert saved.observations is None
    assert saved.settings["norm_obs"] is False


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


Change = Callable[[Any], None]


def change_statistics(**values: Any) -> Change:
    """Return a function that sets attributes of a normalizer's observation statistics."""
    return lambda normalizer: vars(normalizer.obs_rms).update(values)


MAKE_BOMB = Call(os.system, f"touch {MARKER}")
INVALID: dict[str, tuple[Change, str]] = {
    "a call in place of the mean": (
        change_statistics(mean=MAKE_BOMB),
        "it names 'posix system', which no VecNormalize",
    ),
    "a call beside the statistics": (lambda n: vars(n).update(old_reward=MAKE_BOMB), "it names 'posix system'"),
    "bytes of a claimed length": (change_statistics(mean=Call(bytearray, 10**11)), "it names 'builtins bytearray'"),
    "NaN": (change_statistics(mean=np.array([0, np.nan, 0])), "not finite (NaN or infinite)"),
    "an infinite variance": (change_statistics(var=np.array([1, np.inf, 1])), "not finite (NaN or infinite)"),
    "a negative variance": (change_statistics(var=np.array([1.0, -1.0, 1.0])), "a negative variance"),
    "no count": (change_statistics(count=0.0), "or count no values"),
    "an infinite count": (change_statistics(count=float("inf")), "not finite"),
    "a count of text": (change_statistics(count="4"), "it has a str where an object should be"),
    "a huge count": (change_statistics(count=10**400), "OverflowError"),
    "objects": (change_statistics(mean=np.array([{}, {}, {}])), "other numbers than float32 or float64"),
    "whole numbers": (change_statistics(mean=np.array([1, 2, 3])), "other numbers than float32 or float64"),
    "another byte order": (change_statistics(mean=np.ones(3, ">f8")), "other numbers than float32 or float64"),
    "another number of variances": (change_statistics(var=np.ones(4)), "the shape (3,) has a variance of the shape"),
    "a clip that is no number": (lambda n: vars(n).update(clip_obs=float("nan")), "clip_obs is nan"),
    "no statistics": (lambda n: vars(n).update(obs_rms=None), "it has no RunningMeanStd where one should be"),
}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(("change", "message"), INVALID.values(), ids=INVALID)
def test_invalid_statistics_are_refused(change: Change, message: str, protocol: int) -> None:
    normalizer = make_normalizer()
    change(normalizer)
    assert_refused(pickle.dumps(normalizer, protocol), message)


def assert_refused(content: bytes, message: str = "") -> None:
    FILE.write_bytes(content)
    with pytest.raises(RunError) as refused:
        read_statistics(FILE)
    text = str(refused.value)
    assert text.startswith(f"{FILE}: is damaged, or no VecNormalize: ")
    assert message in text
    assert len(text) < 300
    assert text.isprintable()
    assert not MARKER.exists()


def claim_shape(*shape: int) -> bytes:
    """Return a file whose mean claims a shape that it does not have."""
    content = pickle.dumps(make_normalizer(), protocol=3)
    position = content.index(b"mean")
    start = content.index(b"K\x03\x85", position)  # the tuple (3,)
    return content[:start] + pickle.dumps(shape, 3)[2:-1] + content[start + 3 :]


TUPLES = b")" + b"\x85" * 150_000  # nested so deeply that hashing or printing it overflows the stack
LAUGHS = b"]" + b"".join(b"q%c](h%ch%ce" % (n, n, n) for n in range(100))
LONG_NAME = b"\x80\x04\x8c\x0cnumpy.random\x94X\x00\x20\x00\x00" + b"a" * 8192 + b"\x94" + b"h\x00h\x01\x93" * 300
HOSTILE: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "a shape of 2**40 numbers": (lambda: claim_shape(2**40), "which its shape does not need"),
    "a negative shape": (lambda: claim_shape(-3), "no whole number where one should be"),
    "a million axes": (lambda: claim_shape(*[1] * 10_000), "which its shape does not need"),
    "os.system": (pickle.dumps(MAKE_BOMB), "it names 'posix system'"),
    "os.system in protocol 0": (pickle.dumps(MAKE_BOMB, 0), "it names 'posix system'"),
    "a name from the memo": (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93.", "it names 'posix system'"),
    "an instance by name": (b"\x80\x02(iposix\nsystem\n.", "its pickle has INST"),
    "an extension code": (b"\x80\x02\x82\x01.", "its pickle has EXT1"),
    "a name of a megabyte": (b"\x80\x03cgym.spaces.box\nB" + b"o" * 1_000_000 + b"\n.", "it names 'gym.spaces.box B"),
    "a long name from the memo, 300 times": (LONG_NAME + b".", "it names 'numpy.random aaa"),
    "bytes of 2**56": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00.", "bytes8"),
    "a memo of 2**31 entries": (b"\x80\x02}r\xff\xff\xff\x7f.", "it has no VecNormalize"),
    "lists of lists that double": (b"\x80\x02" + LAUGHS + b".", "it has no VecNormalize"),
    "a key that overflows the stack": (b"\x80\x02}" + TUPLES + b"K\x01s.", "neither text nor a number"),
    "a set that overflows the stack": (b"\x80\x04\x8f(" + TUPLES + b"\x90.", "it has no VecNormalize"),
    "a dtype that overflows the stack": (
        lambda: pickle.dumps(make_normalizer(), 3).replace(b"X\x02\0\0\0f8", TUPLES, 1),
        "it has a tuple where a str should be",
    ),
    "an opcode that is not needed": (b"\x80\x02}0.", "its pickle has POP"),
    "too many dicts": (b"\x80\x02]" + b"}a" * 260_000 + b".", "more than 500,000 operations"),
    "a state of no object": (b"\x80\x02}}b.", "it has a dict where an object should be"),
    "a list that is a dict": (b"\x80\x02}K\x01a.", "it has a dict where a list should be"),
    "an odd dict": (b"\x80\x02}(K\x01u.", "its pickle is broken"),
    "nothing on the stack": (b"\x80\x02u.", "its pickle is broken"),
    "nothing to remember": (b"\x80\x02q\x00.", "its pickle is broken"),
    "an empty file": (b"", ""),
    "text": (b"import os", ""),
    "other statistics": (pickle.dumps(RunningMeanStd()), "it has no VecNormalize where one should be"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(content: bytes | Callable[[], bytes], message: str) -> None:
    assert_refused(content() if callable(content) else content, message)


def test_small_hostile_files_take_little_memory() -> None:
    contents = [content() if callable(content) else content for content, _ in HOSTILE.values()]
    tracemalloc.start()
    try:
        for content in (content for content in contents if len(content) < 10_000):
            assert_refused(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_file_of_more_than_64_mib_is_refused() -> None:
    with FILE.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(RunError, match="it is larger than 64 MiB"):
        read_statistics(FILE)


def test_truncated_file_is_refused_at_every_length() -> None:
    content = pickle.dumps(make_normalizer(), protocol=3)
    for length in range(0, len(content), 17):
        assert_refused(content[:length])


def test_file_with_flipped_bit_is_refused_or_has_finite_numbers() -> None:
    content = pickle.dumps(make_normalizer())
    generator = random.Random(0)
    n_refused = 0
    for _ in range(150):
        position = generator.randrange(len(content))
        damaged = bytearray(content)
        damaged[position] ^= 1 << generator.randrange(8)
        FILE.write_bytes(damaged)
        try:
            statistics: Any = read_statistics(FILE).observations
        except RunError:
            n_refused += 1
        else:
            assert statistics is None or np.isfinite([*statistics.mean, *statistics.variance]).all()
    assert 15 < n_refused < 150
