"""The state of an object goes through an archive into another like it; attributes that cannot are named."""

from __future__ import annotations

import random
import threading
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

from toolkit.snapshots import archive, plain_data
from toolkit.snapshots.capture import capture
from toolkit.snapshots.plain_data import decode, encode
from toolkit.snapshots.restore import RESTORE_ERRORS, restore


class Holder:
    """Has the attributes that its arguments name."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)

    def learn(self) -> None:
        """A method, which is no data."""

    @property
    def size(self) -> int:
        """A property, which is no data either."""
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


def make_adder(number: int) -> Callable[[int], int]:
    return lambda other: number + other


Factory = Callable[[], Any]
EASY, HARD = Level(1.0), Level(9.8, [0.5])


def transfer(make: Factory, change: Callable[[Any], None], folder: Path) -> tuple[Any, list[str]]:
    """Change an object as training does; return another one with its state, and the names of unsaved attributes."""
    trained = make()
    start = capture(trained)
    change(trained)
    captured = capture(trained, start=start.structure)
    archive.write(folder / "archive", captured.state)
    restored = make()
    restore(restored, archive.read(folder / "archive"))
    return restored, [*dict.fromkeys([*start.unsaved, *captured.unsaved])]


def transfer_value(value: Any, folder: Path, first: Factory = lambda: None) -> Any:
    """Return the restored value of an attribute that is ``first()`` at the start and ``value`` after training."""

    def change(owner: Any) -> None:
        owner.part = value

    restored, unsaved = transfer(lambda: Holder(part=first()), change, folder)
    assert unsaved == []
    return restored.part


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 2.5, float("inf"), "text", (1, ("two", [3.0])), {1, 2}, frozenset({"a"}), 2**70),
        *({"a": 1, "$": 2}, {(1, 2): [3]}, OrderedDict(b=1, a=2), Counter("hello"), deque([1, (2, 3)], maxlen=4)),
        *([0.1] * 1000, [*range(1000)], [2**70] * 100, [True] * 100, deque(range(100), 100), [1, 2.0] * 50),
    ],
    ids=lambda value: str(value)[:30],
)
def test_plain_value_is_restored_with_its_type(value: Any, tmp_path: Path) -> None:
    restored = transfer_value(value, tmp_path)
    assert restored == value
    assert repr(restored) == repr(value)
    assert type(restored) is type(value)


def test_generator_continues_its_sequence(tmp_path: Path) -> None:
    for number, generator in enumerate(
        [random.Random(3), np.random.default_rng(3), np.random.Generator(np.random.MT19937(3))]
    ):
        generator.random()
        first = [np.random.default_rng(5), lambda: np.random.Generator(np.random.MT19937(5))][number == 2]
        restored = transfer_value(generator, tmp_path / str(number), first if callable(first) else lambda: None)
        assert [restored.random() for _ in range(3)] == [generator.random() for _ in range(3)]


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
def test_value_of_own_type_is_restored_in_place(first: Factory, value: Any, tmp_path: Path) -> None:
    restored = transfer_value(value, tmp_path, first)
    assert restored == value
    assert repr(restored) == repr(value)
    assert type(restored) is type(value)


def test_restored_defaultdict_makes_defaults(tmp_path: Path) -> None:
    assert transfer_value(defaultdict(list, a=[1]), tmp_path, lambda: defaultdict(list))["new"] == []


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
        *(
            (lambda: Path("a"), Path("b")),
            (lambda: partial(min, 1), partial(max, 1)),
            (lambda: make_adder(1), make_adder(2)),
            (threading.Lock, 5),
        ),
    ],
    ids=lambda value: "" if callable(value) else str(type(value)),
)
def test_object_made_in_training_is_named_and_rest_is_restored(first: Factory, value: Any, tmp_path: Path) -> None:
    def change(owner: Any) -> None:
        owner.part, owner.helper.part, owner.count = value, value, 7

    def make() -> Holder:
        return Holder(part=first(), helper=Holder(part=first(), rest=0), count=0)

    restored, unsaved = transfer(make, change, tmp_path)
    assert unsaved == ["part", "helper.part"]
    assert restored.count == 7
    assert repr(restored.part)[:20] == repr(first())[:20]


def test_objects_in_containers_and_attributes_are_restored_in_place(tmp_path: Path) -> None:
    def make() -> Holder:
        statistics = {key: RunningMeanStd(shape=(2,)) for key in ("position", "goal")}
        return Holder(holders=[Holder(part=0), Holder(part=1)], statistics=statistics, inner=Holder(part=Holder(x=1)))

    def change(owner: Any) -> None:
        owner.holders[1].part = "new"
        owner.statistics["goal"].update(np.array([[1.0, 2.0], [3.0, 5.0]]))
        owner.inner.part.x = 2
        owner.inner.part.first_set_in_training = [3]

    restored, unsaved = transfer(make, change, tmp_path)
    assert unsaved == []
    assert (restored.holders[0].part, restored.holders[1].part) == (0, "new")
    assert restored.statistics["goal"].mean == pytest.approx([2.0, 3.5], abs=1e-3)
    assert (restored.inner.part.x, restored.inner.part.first_set_in_training) == (2, [3])


def make_pool(**parts: Any) -> Holder:
    """Return an object with a list of two objects, and an attribute that refers to the first of them."""
    objects = [Holder(part=0, seen=[1]), Holder(part=0, seen=[2])]
    return Holder(pool=objects, current=objects[0], **parts)


def test_shared_object_stays_shared(tmp_path: Path) -> None:
    def change(owner: Any) -> None:
        owner.current.part, owner.current.seen = 5, [1, 3]

    restored, unsaved = transfer(make_pool, change, tmp_path)
    assert unsaved == []
    assert restored.current is restored.pool[0]
    assert (restored.current.part, restored.current.seen) == (5, [1, 3])


def test_attribute_that_refers_to_another_object_is_named(tmp_path: Path) -> None:
    def change(owner: Any) -> None:
        owner.current = owner.pool[1]
        owner.current.part = 5

    restored, unsaved = transfer(make_pool, change, tmp_path)
    assert unsaved == ["current"]
    assert [holder.part for holder in restored.pool] == [0, 5]


def test_shared_object_is_named_twice_if_first_attribute_is_unsaved(tmp_path: Path) -> None:
    _, unsaved = transfer(make_pool, lambda owner: owner.pool.append(Holder()), tmp_path)
    assert unsaved == ["pool", "current"]


def test_shared_constants_are_restored_as_values(tmp_path: Path) -> None:
    def make() -> Holder:
        return Holder(phase=Phase.EXPLORE, last=Phase.EXPLORE, position=Point(1, 2.0), levels=[EASY, HARD], level=EASY)

    def change(owner: Any) -> None:
        owner.last = Phase.EXPLOIT

    restored, unsaved = transfer(make, change, tmp_path)
    assert unsaved == []
    assert (restored.phase, restored.last) == (Phase.EXPLORE, Phase.EXPLOIT)


@pytest.mark.parametrize("shared", [[1], {"a": 1}, deque([1]), {1}], ids=lambda value: type(value).__name__)
def test_container_shared_by_two_attributes_is_named(shared: Any, tmp_path: Path) -> None:
    restored, unsaved = transfer(
        lambda: Holder(rewards=shared, history={"rewards": shared}, count=0),
        lambda owner: setattr(owner, "count", 4),
        tmp_path,
    )
    assert unsaved == ["history"]
    assert restored.count == 4


def test_deleted_attribute_is_named(tmp_path: Path) -> None:
    def change(owner: Any) -> None:
        del owner.part, owner.inner.part

    _, unsaved = transfer(lambda: Holder(inner=Holder(part=1), part=2), change, tmp_path)
    assert unsaved == ["inner.part", "part"]


def test_restore_leaves_frozen_constant_unchanged(tmp_path: Path) -> None:
    assert transfer_value(HARD, tmp_path, lambda: EASY) == HARD
    assert (EASY.gravity, EASY.winds) == (1.0, [])


def test_network_and_optimizer_continue_training(tmp_path: Path) -> None:
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
    restored, unsaved = transfer(make, learn, tmp_path)
    assert unsaved == []
    learn(trained)
    learn(restored)
    assert torch.equal(restored.network.weight, trained.network.weight)
    assert torch.equal(restored.scale, trained.scale)


def test_environments_in_attributes_are_named(tmp_path: Path) -> None:
    def make() -> Holder:
        return Holder(eval_env=DummyVecEnv([lambda: gym.make("CartPole-v1")]), env=gym.make("CartPole-v1"), count=0)

    restored, unsaved = transfer(make, lambda owner: setattr(owner, "count", 4), tmp_path)
    assert unsaved == ["eval_env", "env"]
    assert restored.count == 4


def test_objects_saved_elsewhere_are_neither_saved_nor_named() -> None:
    network = torch.nn.Linear(2, 2)
    owner = Holder(network=network, weights=[*network.parameters()], itself=None, part=3)
    owner.itself = owner
    captured = capture(owner, [network, *network.parameters()])
    assert captured.unsaved == []
    assert captured.state["state"] == {"weights": [{"$": "known"}, {"$": "known"}], "part": 3}


def test_vec_normalize_of_dict_observations_is_restored(tmp_path: Path) -> None:
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
    restored, unsaved = transfer(make, change, tmp_path)
    assert unsaved == []
    assert np.array_equal(restored.obs_rms["all"].mean, trained.obs_rms["all"].mean)


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
def test_restore_refuses_forged_state(forged: dict[str, Any]) -> None:
    owner = Holder(part=1, inner=Holder(part=2), call=len, network=torch.nn.Linear(1, 1))
    before = dict(vars(owner))
    with pytest.raises((ValueError, LookupError)):
        restore(owner, {"$": "attributes", "state": forged})
    assert vars(owner) == before
    assert vars(owner.inner) == {"part": 2}


def test_capture_names_state_dict_that_cannot_be_saved() -> None:
    class Unsaved(Holder):
        def state_dict(self) -> dict[str, Any]:
            return {"lock": threading.Lock()}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise AssertionError("nothing was saved")

    captured = capture(Unsaved())
    assert captured.unsaved == ["the value of its state_dict"]
    restore(Unsaved(), captured.state)


def test_restore_reads_former_class_name() -> None:
    class MonitorCsvWriter(Holder):
        pass

    owner = Holder(writer=MonitorCsvWriter(seconds=0.0))
    state = {"$": "live", "type": "Bookkeeper", "state": {"$": "attributes", "state": {"seconds": 2.5}}}
    restore(owner, {"$": "attributes", "state": {"writer": state}})
    assert owner.writer.seconds == 2.5


def test_restore_accepts_new_class_with_former_name_of_another() -> None:
    class Bookkeeper(Holder):
        pass

    owner, saved = (Holder(writer=Bookkeeper(seconds=seconds)) for seconds in (0.0, 2.5))
    restore(owner, capture(saved).state)
    assert owner.writer.seconds == 2.5


@pytest.mark.parametrize("state", [5, "text", None, np.zeros(3)])
def test_restore_refuses_generator_state_of_plain_data(state: Any) -> None:
    owner = Holder(generator=np.random.Generator(np.random.Philox(3)))
    forged = {"generator": {"$": "live", "type": "Generator", "state": state}}
    with pytest.raises(RESTORE_ERRORS):
        restore(owner, {"$": "attributes", "state": forged})
    assert isinstance(owner.generator, np.random.Generator)


@pytest.mark.parametrize("bit_generator", [np.random.MT19937, np.random.Philox])
def test_decode_refuses_generator_position_outside_buffer(bit_generator: type[np.random.BitGenerator]) -> None:
    data = encode(np.random.Generator(bit_generator(3)))
    fields = data["state"] if "buffer_pos" in data["state"] else data["state"]["state"]
    fields["buffer_pos" if "buffer_pos" in fields else "pos"] = -400_000_000
    with pytest.raises(ValueError, match="of a generator is not between"):
        decode(data, np.random.Generator(bit_generator(3)))


def test_copied_data_keeps_its_values_when_the_original_changes() -> None:
    data = {"arrays": [np.zeros(2)], "number": 1}
    copied = plain_data.copy_data(data)
    data["arrays"][0][:] = 7
    data["arrays"].append(np.ones(2))
    assert plain_data.is_equal(copied, {"arrays": [np.zeros(2)], "number": 1})
