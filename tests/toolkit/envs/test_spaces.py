"""Spaces that SB3 learns nothing in are refused with their line; what environments return is tried by `check`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from support import Toolkit

from toolkit import Run, load_config, train
from toolkit.envs.factory import make_vec_env
from toolkit.envs.trial import try_environment
from toolkit.evaluation.evaluate import evaluate
from toolkit.training.trainer import dry_run
from toolkit.utils.errors import ConfigError

WarningsOf = Callable[[Path], list[str]]
TWO = spaces.Discrete(2)
FLOATS = spaces.Box(-1, 1, (2,), np.float32)
FLATTEN = "add the wrapper gymnasium.wrappers:FlattenObservation"
SHIFT = "add the wrapper 'zero_start'"
DQN = "{name: double_dqn, params: {learning_starts: 20, buffer_size: 100}, policy: %s}"
PPO = "{name: ppo, params: {n_steps: 32, batch_size: 32}, policy: %s}"


class Given(gym.Env[Any, Any]):
    """Has the spaces of its class and returns its values; an episode has five steps."""

    observation_space: Any = FLOATS
    action_space: Any = TWO
    value: Callable[[], Any] | None = None
    reward: Any = 1.0
    terminated: Any = False
    info: dict[str, Any] = {}
    needed_option: str | None = None
    metadata: dict[str, Any] = {"render_modes": []}  # as Gymnasium has it
    actions: list[Any] = []  # of all instances
    options: list[Any] = []

    def __init__(self, render_mode: str | None = None) -> None:
        pass

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.options.append(options)
        if self.needed_option:
            options[self.needed_option]  # type: ignore[index]
        self.step_number = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        if not self.action_space.contains(action):
            raise ValueError(f"not an action: {action}")
        self.step_number += 1
        return self._observe(), self.reward, self.terminated, self.step_number == 5, dict(self.info)

    def _observe(self) -> Any:
        return type(self).value() if type(self).value else self.observation_space.sample()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Write `c.yaml` with an environment that has other spaces or values: line 2 is the environment."""
    gym.register("Given-v0", Given)
    monkeypatch.setattr(Given, "actions", [])
    monkeypatch.setattr(Given, "options", [])

    def write(env: str = "", algorithm: str = DQN, policy: str = "MlpPolicy", **attributes: Any) -> Path:
        for name, value in attributes.items():
            monkeypatch.setattr(Given, name, staticmethod(value) if callable(value) else value)
        path = Path("c.yaml")
        path.write_text(f"timesteps: 64\nenv: {{id: Given-v0{env}}}\nalgorithm: {algorithm % policy}\n")
        return path

    yield write
    del gym.registry["Given-v0"]


def error_of(function: Callable[[Any], object], path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        function(load_config(path))
    return str(error.value)


@pytest.fixture
def warnings_of(toolkit: Toolkit, caplog: pytest.LogCaptureFixture) -> WarningsOf:
    """Return what `toolkit check` warns of."""

    def check(path: Path) -> list[str]:
        caplog.clear()
        assert toolkit("check", path).status == 0
        return caplog.messages

    return check


OBSERVATIONS: dict[str, tuple[spaces.Space[Any], str, str]] = {
    "text": (spaces.Text(3), "Text", "add a wrapper that returns arrays"),
    "sequence": (spaces.Sequence(FLOATS), "Sequence", "add a wrapper that returns arrays"),
    "graph": (spaces.Graph(FLOATS, None), "Graph", "add a wrapper that returns arrays"),
    "text in a dict": (spaces.Dict(a=spaces.Text(3)), "Text inside Dict ('a')", "add a wrapper that returns arrays"),
    "nested dict": (spaces.Dict(a=spaces.Dict(b=TWO)), "Dict inside Dict ('a')", FLATTEN),
    "tuple": (spaces.Tuple([TWO, FLOATS]), "Tuple", FLATTEN),
    "table": (spaces.MultiDiscrete([[2, 3], [2, 2]]), "MultiDiscrete with 2 dimensions", FLATTEN),
    "discrete from 3": (spaces.Discrete(5, start=3), "Discrete that starts at 3, not 0", SHIFT),
    "discrete below 0 in a dict": (
        spaces.Dict(a=FLOATS, b=spaces.Discrete(3, start=-1)),
        "Discrete inside Dict ('b') that starts at -1, not 0",
        SHIFT,
    ),
    "scalar": (
        spaces.Box(0, 1, (), np.float32),
        "Box of one number without a dimension",
        "return an array of shape (1,), in a wrapper for example",
    ),
    "nothing": (
        spaces.Box(0, 1, (0,), np.float32),
        "Box of shape (0,), without a number",
        "return what the agent needs to know",
    ),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_unsupported_observation_space_is_refused_with_its_line(name: str, given: Callable[..., Path]) -> None:
    space, text, hint = OBSERVATIONS[name]
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    message = f"c.yaml:2: env: 'Given-v0' has an observation space that SB3 does not support: {text}; {hint}"
    assert error_of(dry_run, given(observation_space=space, policy=policy)) == message


ACTIONS: dict[str, tuple[spaces.Space[Any], str, str]] = {
    "discrete from 1": (spaces.Discrete(3, start=1), "Discrete that starts at 1, not 0", SHIFT),
    "several from 1": (
        spaces.MultiDiscrete([3, 3], start=[1, 0]),
        "MultiDiscrete that starts at [1, 0], not 0",
        SHIFT,
    ),
    "table": (spaces.MultiDiscrete([[3, 3], [2, 2]]), "MultiDiscrete with 2 dimensions", "flatten it in a wrapper"),
    "table of bits": (spaces.MultiBinary((2, 2)), "MultiBinary with 2 dimensions", "flatten it in a wrapper"),
    "integers": (
        spaces.Box(0, 5, (2,), np.int64),
        "Box of int64, while agents give real numbers",
        "use Discrete or MultiDiscrete, in a wrapper for example",
    ),
    "no bounds": (
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        "Box without bounds",
        "give it finite ones, in a wrapper for example",
    ),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_unsupported_action_space_is_refused_with_its_line(name: str, given: Callable[..., Path]) -> None:
    space, text, hint = ACTIONS[name]
    message = f"c.yaml:2: env: 'Given-v0' has an action space that SB3 does not support: {text}; {hint}"
    assert error_of(dry_run, given(action_space=space, algorithm=PPO)) == message


SUPPORTED = {
    "several choices": (spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([3, 3])),
    "bits": (spaces.MultiBinary(4), spaces.MultiBinary(3)),
    "integers to see, a matrix to act": (spaces.Box(0, 9, (3,), np.int64), spaces.Box(-1, 1, (2, 3), np.float32)),
    "a matrix to see, doubles to act": (spaces.Box(0, 1, (2, 3)), spaces.Box(-1, 1, (1,), np.float64)),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_environment_gets_actions_of_its_space(name: str, given: Callable[..., Path]) -> None:
    observation_space, action_space = SUPPORTED[name]
    path = given(observation_space=observation_space, action_space=action_space, algorithm=PPO)
    run = train(load_config(path))
    assert run.result
    assert run.result["status"] == "finished"
    assert all(action_space.contains(action) for action in Given.actions)


def test_flattened_space_trains(given: Callable[..., Path]) -> None:
    wrapper = ", wrappers: ['gymnasium.wrappers:FlattenObservation']"
    for space in (spaces.Tuple([TWO, FLOATS]), spaces.Dict(a=spaces.Dict(b=TWO)), spaces.MultiDiscrete([[2, 3]])):
        dry_run(load_config(given(wrapper, observation_space=space)))


def test_number_without_dimension_is_taken_for_array_of_one(given: Callable[..., Path]) -> None:
    space = spaces.Box(-1, 1, (1,), np.float32)
    path = given(", params: {disable_env_checker: true}", observation_space=space, value=lambda: 0.25)
    env = make_vec_env(load_config(path), seed=0)
    assert np.array_equal(env.reset(), [[0.25]])
    for _ in range(5):
        observation, *_, infos = env.step(np.array([0]))
    assert np.array_equal(observation, [[0.25]])
    assert np.array_equal(infos[0]["terminal_observation"], [0.25])


def test_reset_options_reach_every_reset(given: Callable[..., Path]) -> None:
    path = given(", reset_options: {level: 3}, max_episode_steps: 2", needed_option="level")
    evaluate(train(load_config(path)), episodes=4)
    assert len(Given.options) > 30
    assert all(options == {"level": 3} for options in Given.options)


def test_reset_that_needs_options_is_explained(given: Callable[..., Path], toolkit: Toolkit) -> None:
    finished = toolkit("check", given(needed_option="level"))
    assert finished.status == 2
    message = "c.yaml:2: env: 'Given-v0' fails at a reset: TypeError: 'NoneType' object is not subscriptable"
    assert message in finished.err
    assert finished.err.endswith("; set env.reset_options if it needs options\n")


def return_nan() -> NDArray[np.float32]:
    return np.array([np.nan, 0], np.float32)


def return_infinity() -> NDArray[np.float32]:
    return np.array([np.inf, 0], np.float32)


class FiniteExtractor(BaseFeaturesExtractor):
    """Give a network finite numbers."""

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, features_dim=2)

    def forward(self, observations: Any) -> Any:
        return observations.clamp(-5, 5)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "two rewards": (
        {"reward": np.array([1.0, 2.0])},
        "cannot be trained in: the environment returns a reward that is not one number: ndarray of shape (2,); "
        "return a float; weigh several objectives in a wrapper, and name it under env.base_wrappers",
    ),
    "no reward": (
        {"reward": None},
        "cannot be trained in: the environment returns a reward that is not one number: NoneType; "
        "return a float; weigh several objectives in a wrapper, and name it under env.base_wrappers",
    ),
    "infinite reward": ({"reward": np.inf}, "returns a reward of inf; correct it, or its wrappers"),
    "NaN": (
        {"value": return_nan},
        "cannot be trained in: the environments return observations that are not finite numbers; "
        "correct them, or their wrappers",
    ),
    "fractions in uint8": (
        {"observation_space": spaces.Box(0, 255, (2,), np.uint8), "value": lambda: np.array([0.5, 1])},
        "cannot be trained in: the environment returns an observation of type float64, but its space has uint8, "
        "which loses fractions; "
        "return uint8, or give the space the type float64, in the environment or its wrappers",
    ),
    "success in words": (
        {"info": {"is_success": "yes"}},
        "cannot be trained in: the environment returns info['is_success'] as 'yes'; "
        "return True or False, or a number from 0 to 1",
    ),
    "room 5 of 5": (
        {"observation_space": spaces.Discrete(5), "value": lambda: 5},
        "returns an observation outside its space: 5, not Discrete(5); correct it, or its wrappers",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_environment_is_refused_before_training(name: str, given: Callable[..., Path]) -> None:
    attributes, message = FAULTS[name]
    assert error_of(try_environment, given(**attributes)) == f"c.yaml:2: env: 'Given-v0' {message}"


MASKED: dict[str, tuple[spaces.Space[Any], list[bool], list[Any]]] = {
    "discrete": (spaces.Discrete(3), [False, True, False], [1]),
    "several choices": (spaces.MultiDiscrete([2, 3]), [False, True, False, False, True], [[1, 2]]),
    "bits": (spaces.MultiBinary(3), [True, False, False, True, True, True], [[0, 1, 0], [0, 1, 1]]),
}


@pytest.mark.parametrize("name", MASKED)
def test_trial_plays_only_actions_that_masks_allow(name: str, given: Callable[..., Path]) -> None:
    space, masks, allowed = MASKED[name]
    path = given(action_space=space, algorithm=PPO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Given, "action_masks", lambda _: masks, raising=False)
        try_environment(load_config(path))
    actions = [np.asarray(action).tolist() for action in Given.actions]
    assert all(action in allowed for action in actions)
    assert all(action in actions for action in allowed)


def test_masks_that_do_not_fit_are_refused_with_line(given: Callable[..., Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(Given, "action_masks", lambda _: [True, False, True], raising=False)
    message = error_of(try_environment, given())
    assert message.startswith("c.yaml:2: env: 'Given-v0' fails at action_masks(): AssertionError: ")


def test_error_of_environment_is_reported_with_step_and_action(given: Callable[..., Path]) -> None:
    def fail() -> Any:
        if len(Given.actions) == 3:
            raise KeyError("speed")
        return np.zeros(2, np.float32)

    message = error_of(try_environment, given(value=fail))
    assert message.startswith(f"c.yaml:2: env: 'Given-v0' fails at step 3, with action {Given.actions[-1]}: KeyError")


def test_check_names_values_outside_the_space(given: Callable[..., Path], warnings_of: WarningsOf) -> None:
    assert warnings_of(given(value=lambda: np.array([0, 5], np.float32), terminated=0)) == [
        "c.yaml:2: env: 'Given-v0' returns observations outside their space: 5, not -1 to 1; correct it, or its space",
        "c.yaml:2: env: 'Given-v0' returns terminated as int, not bool; correct it, or its space",
    ]


UNUSUAL: dict[str, tuple[dict[str, Any], str]] = {
    "a table": (
        {"observation_space": spaces.Box(0, 1, (3, 4), np.float32)},
        "gives observations of shape (3, 4): networks take them as 12 numbers in a row; "
        "if they are no table, give them another shape",
    ),
    "an image of fractions": (
        {"observation_space": spaces.Box(0, 1, (8, 8, 3), np.float32)},
        "gives observations of shape (8, 8, 3) that are no images to SB3; images are uint8, from 0 to 255",
    ),
    "actions on one side": (
        {"action_space": spaces.Box(0, 1, (2,), np.float32), "algorithm": PPO},
        "takes actions from 0 to 1, which are not symmetric around 0; "
        "add the wrapper gymnasium.wrappers:RescaleAction with min_action: -1 and max_action: 1",
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_space_that_sb3_advises_against_is_said(
    name: str, given: Callable[..., Path], warnings_of: WarningsOf
) -> None:
    attributes, message = UNUSUAL[name]
    assert warnings_of(given(**attributes)) == [f"c.yaml:2: env: 'Given-v0' {message}"]


def test_own_features_extractor_may_take_infinity(given: Callable[..., Path]) -> None:
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    path = given(observation_space=space, value=return_infinity)
    assert "not finite" in error_of(try_environment, path)
    name = f"algorithm.policy_params.features_extractor_class={__file__}:FiniteExtractor"
    config = load_config(path, [name])
    try_environment(config)
    run = train(config)
    assert run.result
    assert run.result["status"] == "finished"


def test_images_as_rows_of_numbers_are_said(given: Callable[..., Path], warnings_of: WarningsOf) -> None:
    image, small = spaces.Box(0, 255, (64, 48, 3), np.uint8), spaces.Box(0, 255, (7, 7, 3), np.uint8)
    message = "'MlpPolicy' takes images of shape (3, 64, 48) as 9,216 numbers in a row; choose CnnPolicy"
    assert message in warnings_of(given(observation_space=image))[0]
    assert not warnings_of(given(observation_space=small)), "a grid of symbols"
    stack = ", wrappers: [{name: 'gymnasium.wrappers:FrameStackObservation', params: {stack_size: 4}}]"
    message = "(4, 64, 48, 3) as 36,864 numbers in a row; stack frames by vec_frame_stack, in env.vec_wrappers"
    assert message in warnings_of(given(stack, observation_space=image))[0]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 1, (64, 64, 3), np.float32), "needs images, uint8 from 0 to 255 in three dimensions"),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), "needs images of at least 36x36 pixels"),
    ],
)
def test_unfit_images_are_refused_by_policy(space: spaces.Box, message: str, given: Callable[..., Path]) -> None:
    text = error_of(dry_run, given(observation_space=space, policy="CnnPolicy"))
    assert text.startswith(f"c.yaml:3: algorithm.policy: 'CnnPolicy' {message}")


def test_actions_far_from_start_of_policy_are_said(given: Callable[..., Path], warnings_of: WarningsOf) -> None:
    wide, near = spaces.Box(-1000, 1000, (2,), np.float32), spaces.Box(-2, 2, (2,), np.float32)
    message = "takes actions from -1000 to 1000, and those of 'ppo' start near 0, with a deviation of 1"
    assert message in warnings_of(given(action_space=wide, algorithm=PPO))[0]
    assert not warnings_of(given(action_space=near, algorithm=PPO))
    rescale = "{name: 'gymnasium.wrappers:RescaleAction', params: {min_action: -1, max_action: 1}}"
    assert not warnings_of(given(f", wrappers: [{rescale}]", action_space=wide, algorithm=PPO))


class OnePerProcess(Given):
    """A process can have it once."""

    existing: set[int] = set()

    def __init__(self, render_mode: str | None = None) -> None:
        if os.getpid() in self.existing:
            raise RuntimeError("one emulator per process")
        self.existing.add(os.getpid())

    def close(self) -> None:
        self.existing.discard(os.getpid())


if "OnePerProcess-v0" not in gym.registry:
    gym.register("OnePerProcess-v0", OnePerProcess)


@pytest.fixture
def lone_run(working_directory: Path) -> Run:
    Path("c.yaml").write_text(f"timesteps: 64\nenv: {{id: OnePerProcess-v0}}\nalgorithm: {DQN % 'MlpPolicy'}\n")
    return train(load_config("c.yaml"))


def test_environment_that_exists_once_is_evaluated_alone(lone_run: Run, caplog: pytest.LogCaptureFixture) -> None:
    evaluation = evaluate(lone_run, episodes=3)
    assert (evaluation.n_envs, evaluation.returns) == (1, (5.0, 5.0, 5.0))
    assert "played on one environment" in caplog.text
    assert "RuntimeError: one emulator per process" in caplog.text
    assert not OnePerProcess.existing


def test_second_copy_in_process_is_refused_with_a_way_out(lone_run: Run) -> None:
    config = load_config("c.yaml", ["env.n_envs=2"])
    with pytest.raises(ConfigError, match=r"if a process can have only one, set env\.vec_env to subproc$"):
        dry_run(config)
    assert not OnePerProcess.existing


def test_first_copy_that_cannot_be_built_keeps_its_cause(lone_run: Run) -> None:
    config = load_config("c.yaml")
    env = make_vec_env(config, seed=0)
    with pytest.raises(ConfigError) as error:
        make_vec_env(config, seed=0)
    env.close()
    assert isinstance(error.value.__cause__, RuntimeError)


def test_callback_that_needs_a_second_copy_is_refused(lone_run: Run) -> None:
    callback = "callbacks=[{name: success, params: {threshold: 9, confirm_episodes: 5}}]"
    with pytest.raises(ConfigError, match=r"callbacks\.0: 'success' needs a second environment in the training pro"):
        dry_run(load_config("c.yaml", [callback]))
    assert not OnePerProcess.existing
    dry_run(load_config("c.yaml", [callback, "env.vec_env=subproc", f"import_modules=[{__file__}]"]))
