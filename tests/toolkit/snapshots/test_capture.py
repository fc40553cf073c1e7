"""What an object holds goes through files into another like it; what cannot is named, and the rest still goes."""

from __future__ import annotations

import hashlib
import random
import threading
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, Flag
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from toolkit.snapshots import archive
from toolkit.snapshots.capture import capture
from toolkit.snapshots.restore import restore
from toolkit.utils.errors import RunError


class Holder:
    """Holds what it is given."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)

    def learn(self) -> None:
        """Is no data."""

    @property
    def size(self) -> int:
        """Is no data either."""
        return len(vars(self))


class Point(NamedTuple):
    x: int
    y: float


class Phase(Enum):
    EXPLORE = 1
    EXPLOIT = 2


class Keys(Flag):
    UP = 1
    FIRE = 2


@dataclass(frozen=True)
class Level:
    gravity: float
    winds: list[float] = field(default_factory=list)


class History(list[Any]):
    """A list with a method of its own."""

    def last(self) -> Any:
        return self[-1]


def adding(number: int) -> Callable[[int], int]:
    return lambda other: number + other


Made = Callable[[], Any]
EASY, HARD = Level(1.0), Level(9.8, [0.5])


def carried_over(make: Made, change: Callable[[Any], None], folder: Path) -> tuple[Any, list[str]]:
    """Change an object, as training does; return another one that has its state, and what was named as missed."""
    trained = make()
    start = capture(trained)
    change(trained)
    captured = capture(trained, start=start.structure)
    archive.write(folder / "archive", captured.state)
    another = make()
    restore(another, archive.read(folder / "archive"))
    return another, [*dict.fromkeys([*start.unsaved, *captured.unsaved])]


def held(value: Any, folder: Path, first: Made = lambda: None) -> Any:
    """Return what becomes of a value that an attribute gets in training; it holds ``first()`` before."""

    def change(owner: Any) -> None:
        owner.part = value

    another, missed = carried_over(lambda: Holder(part=first()), change, folder)
    assert missed == []
    return another.part


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 2.5, float("inf"), "text", (1, ("two", [3.0])), {1, 2}, frozenset({"a"}), 2**70),
        *({"a": 1, "$": 2}, {(1, 2): [3]}, OrderedDict(b=1, a=2), Counter("hello"), deque([1, (2, 3)], maxlen=4)),
        *([0.1] * 1000, [*range(1000)], [2**70] * 100, [True] * 100, deque(range(100), 100), [1, 2.0] * 50),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_python_has_for_values_comes_back_as_it_was(value: Any, tmp_path: Path) -> None:
    kept = held(value, tmp_path)
    assert kept == value
    assert repr(kept) == repr(value)
    assert type(kept) is type(value)


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    for number, generator in enumerate(
        [random.Random(3), np.random.default_rng(3), np.random.Generator(np.random.MT19937(3))]
    ):
        generator.random()
        first = [np.random.default_rng(5), lambda: np.random.Generator(np.random.MT19937(5))][number == 2]
        kept = held(generator, tmp_path / str(number), first if callable(first) else lambda: None)
        assert [kept.random() for _ in range(3)] == [generator.random() for _ in range(3)]


@pytest.mark.parametrize(
    ("first", "value"),
    [
        (lambda: Point(0, 0.0), Point(3, 0.5)),
        (lambda: defaultdict(list), defaultdict(list, a=[1])),
        (lambda: History([0]), History([1, [2, 3]])),
        (lambda: Phase.EXPLORE, Phase.EXPLOIT),
        (lambda: [Point(0, 0.0), Point(0, 0.0)], [Point(1, 2.0), Point(3, 4.0)]),
        (lambda: deque([Point(0, 0.0)], 5), deque([Point(1, 2.0)], 5)),
        (lambda: {"phase": Phase.EXPLORE, "count": 0}, {"phase": Phase.EXPLOIT, "count": 9}),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_what_has_a_type_of_its_own_keeps_it(first: Made, value: Any, tmp_path: Path) -> None:
    kept = held(value, tmp_path, first)
    assert kept == value
    assert repr(kept) == repr(value)
    assert type(kept) is type(value)


def test_a_default_dict_still_makes_its_defaults(tmp_path: Path) -> None:
    assert held(defaultdict(list, a=[1]), tmp_path, lambda: defaultdict(list))["new"] == []


@pytest.mark.parametrize(
    ("first", "value"),
    [
        *((list, [Holder(part=1)]), (dict, {"a": Holder(part=1)}), (deque, deque([Holder(part=1)]))),
        *((lambda: None, Holder(part=1)), (deque, deque([Point(1, 2.0)])), (lambda: None, Point(1, 2.0))),
        *((dict, {"a": defaultdict(int)}), (dict, {Phase.EXPLORE: 1}), (lambda: None, History())),
        *((lambda: Phase.EXPLORE, 7), (lambda: Holder(part=1), None), (lambda: None, threading.Lock())),
        *((lambda: len, max), (lambda: None, torch.nn.Linear(1, 1)), (list, [{"deep": [Level(2.0)]}])),
        *((lambda: None, np.ma.array([1])), (lambda: None, random.SystemRandom())),
        *((lambda: Keys.UP, Keys.UP | Keys.FIRE), (lambda: 1, 1 << 20_000), (list, [1 << 20_000])),
        *((lambda: None, torch.empty(2, device="meta")), (lambda: None, torch.ones(2).to(torch.float8_e5m2))),
        *((lambda: Path("a"), Path("b")), (lambda: partial(min, 1), partial(max, 1)), (lambda: adding(1), adding(2))),
    ],
    ids=lambda value: "" if callable(value) else str(type(value)),
)
def test_what_training_made_is_named_and_the_rest_comes_back(first: Made, value: Any, tmp_path: Path) -> None:
    def change(owner: Any) -> None:
        owner.part, owner.helper.part, owner.count = value, value, 7

    def make() -> Holder:
        return Holder(part=first(), helper=Holder(part=first(), rest=0), count=0)

    another, missed = carried_over(make, change, tmp_path)
    assert missed == ["part", "helper.part"]
    assert another.count == 7
    assert repr(another.part)[:20] == repr(first())[:20]


def test_objects_that_are_there_from_the_start_come_back_wherever_they_are(tmp_path: Path) -> None:
    def make() -> Holder:
        statistics = {key: RunningMeanStd(shape=(2,)) for key in ("position", "goal")}
        return Holder(listed=[Holder(part=0), Holder(part=1)], statistics=statistics, inner=Holder(part=Holder(x=1)))

    def change(owner: Any) -> None:
        owner.listed[1].part = "new"
        owner.statistics["goal"].update(np.array([[1.0, 2.0], [3.0, 5.0]]))
        owner.inner.part.x = 2
        owner.inner.part.first_set_in_training = [3]

    another, missed = carried_over(make, change, tmp_path)
    assert missed == []
    assert (another.listed[0].part, another.listed[1].part) == (0, "new")
    assert another.statistics["goal"].mean == pytest.approx([2.0, 3.5], abs=1e-3)
    assert (another.inner.part.x, another.inner.part.first_set_in_training) == (2, [3])


def pool(**parts: Any) -> Holder:
    """Hold two objects, and the first of them once more."""
    objects = [Holder(part=0, seen=[1]), Holder(part=0, seen=[2])]
    return Holder(pool=objects, current=objects[0], **parts)


def test_an_object_that_is_held_twice_is_still_one(tmp_path: Path) -> None:
    def change(owner: Any) -> None:
        owner.current.part, owner.current.seen = 5, [1, 3]

    another, missed = carried_over(pool, change, tmp_path)
    assert missed == []
    assert another.current is another.pool[0]
    assert (another.current.part, another.current.seen) == (5, [1, 3])


def test_an_attribute_that_holds_another_of_the_objects_is_named(tmp_path: Path) -> None:
    def change(owner: Any) -> None:
        owner.current = owner.pool[1]
        owner.current.part = 5

    another, missed = carried_over(pool, change, tmp_path)
    assert missed == ["current"]
    assert [one.part for one in another.pool] == [0, 5]


def test_an_object_is_named_at_both_places_if_it_is_lost_at_the_first(tmp_path: Path) -> None:
    _, missed = carried_over(pool, lambda owner: owner.pool.append(Holder()), tmp_path)
    assert missed == ["pool", "current"]


def test_constants_that_are_held_twice_are_values(tmp_path: Path) -> None:
    def make() -> Holder:
        return Holder(phase=Phase.EXPLORE, last=Phase.EXPLORE, place=Point(1, 2.0), levels=[EASY, HARD], level=EASY)

    def change(owner: Any) -> None:
        owner.last = Phase.EXPLOIT

    another, missed = carried_over(make, change, tmp_path)
    assert missed == []
    assert (another.phase, another.last) == (Phase.EXPLORE, Phase.EXPLOIT)


@pytest.mark.parametrize("shared", [[1], {"a": 1}, deque([1]), {1}], ids=lambda value: type(value).__name__)
def test_a_container_that_two_attributes_hold_is_named_as_it_would_come_apart(shared: Any, tmp_path: Path) -> None:
    another, missed = carried_over(
        lambda: Holder(rewards=shared, history={"rewards": shared}, count=0),
        lambda owner: setattr(owner, "count", 4),
        tmp_path,
    )
    assert missed == ["history"]
    assert another.count == 4


def test_an_attribute_that_training_took_away_is_named(tmp_path: Path) -> None:
    def change(owner: Any) -> None:
        del owner.part, owner.inner.part

    _, missed = carried_over(lambda: Holder(inner=Holder(part=1), part=2), change, tmp_path)
    assert missed == ["inner.part", "part"]


def test_a_constant_that_an_attribute_names_is_not_changed(tmp_path: Path) -> None:
    assert held(HARD, tmp_path, lambda: EASY) == HARD
    assert (EASY.gravity, EASY.winds) == (1.0, [])


def test_networks_and_their_optimizers_go_on_learning(tmp_path: Path) -> None:
    def make() -> Holder:
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1)
        scale = torch.nn.Parameter(torch.ones(2))
        return Holder(network=network, scale=scale, adam=torch.optim.Adam([*network.parameters(), scale]))

    def learn(owner: Any) -> None:
        for _ in range(3):
            owner.adam.zero_grad()
            (owner.network(torch.ones(1, 3)).sum() + owner.scale.square().sum()).backward()
            owner.adam.step()

    trained = make()
    learn(trained)
    another, missed = carried_over(make, learn, tmp_path)
    assert missed == []
    learn(trained)
    learn(another)
    assert torch.equal(another.network.weight, trained.network.weight)
    assert torch.equal(another.scale, trained.scale)


def test_environments_of_its_own_are_named(tmp_path: Path) -> None:
    def make() -> Holder:
        return Holder(eval_env=DummyVecEnv([lambda: gym.make("CartPole-v1")]), env=gym.make("CartPole-v1"), count=0)

    another, missed = carried_over(make, lambda owner: setattr(owner, "count", 4), tmp_path)
    assert missed == ["eval_env", "env"]
    assert another.count == 4


def test_what_others_look_after_is_neither_kept_nor_named() -> None:
    network = torch.nn.Linear(2, 2)
    owner = Holder(network=network, weights=[*network.parameters()], itself=None, part=3)
    owner.itself = owner
    captured = capture(owner, [network, *network.parameters()])
    assert captured.unsaved == []
    assert captured.state["state"] == {"weights": [{"$": "known"}, {"$": "known"}], "part": 3}


def test_a_normalizer_of_dict_observations_is_kept_whole(tmp_path: Path) -> None:
    class Dicts(gym.ObservationWrapper[Any, Any, Any]):
        def __init__(self) -> None:
            super().__init__(gym.make("CartPole-v1"))
            self.observation_space = gym.spaces.Dict({"all": self.env.observation_space})

        def observation(self, observation: Any) -> Any:
            return {"all": observation}

    def make() -> VecNormalize:
        return VecNormalize(DummyVecEnv([Dicts]))

    def change(owner: VecNormalize) -> None:
        owner.seed(3)
        owner.reset()
        owner.step(np.array([1]))

    trained = make()
    change(trained)
    another, missed = carried_over(make, change, tmp_path)
    assert missed == []
    assert np.array_equal(another.obs_rms["all"].mean, trained.obs_rms["all"].mean)


@pytest.mark.parametrize(
    "forged",
    [
        *({"learn": 5}, {"size": 5}, {"__class__": 5}, {"__dict__": {}}, {"inner": 5}, {"inner": None}, {"call": 5}),
        *({"network": 5}, {"part": {"$": "live", "type": "Holder", "state": {}}}, {"part": {"$": "no such"}}),
        {"inner": {"$": "live", "type": "Holder", "state": {"$": "attributes", "state": {"learn": 5}}}},
        {"inner": {"$": "live", "type": "Point", "state": {}}},
        {"call": {"$": "live", "type": "builtin_function_or_method", "state": {"$": "attributes", "state": {}}}},
        {"network": {"$": "live", "type": "Linear", "state": {"$": "attributes", "state": {"training": 5}}}},
        {"network": {"$": "live", "type": "Linear", "state": {"$": "own", "state": {"weight": 5}}}},
    ],
    ids=str,
)
def test_forged_state_is_refused(forged: dict[str, Any]) -> None:
    owner = Holder(part=1, inner=Holder(part=2), call=len, network=torch.nn.Linear(1, 1))
    before = dict(vars(owner))
    with pytest.raises((ValueError, LookupError)):
        restore(owner, {"$": "attributes", "state": forged})
    assert vars(owner) == before
    assert vars(owner.inner) == {"part": 2}


@pytest.mark.parametrize("parts", ["[]", "[[]]", "{}", '{"a":0}'])
def test_a_file_of_many_small_parts_takes_no_more_memory_than_it_should(parts: str, tmp_path: Path) -> None:
    archive.write(tmp_path / "archive", [])
    state = tmp_path / "archive" / "state.json"
    state.write_text("[" + ",".join([parts] * (15_000_000 // (len(parts) + 1))) + "]")
    names = ("state.json", "arrays.safetensors")
    sums = [f"{hashlib.sha256((state.parent / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (state.parent / "SHA256SUMS").write_text("".join(sums))
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match="lists and mappings"):
            archive.read(tmp_path / "archive")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_what_has_too_many_parts_to_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="lists and mappings"):
        archive.write(tmp_path / "archive", [[]] * 600_000)
    assert not (tmp_path / "archive").exists()
