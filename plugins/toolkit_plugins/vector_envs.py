"""Gymnasium's environments as batches of arrays, which step in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

_ACROBOT, _MOUNTAIN_CAR = AcrobotEnv(), MountainCarEnv()  # for their constants and equations
Step = tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class CartPole(CartPoleVectorEnv):
    """Gymnasium's vectorized CartPole, in which an episode that has ended waits for a reset with a mask.

    Gymnasium's own starts the next episode in the step after the end (``AutoresetMode.NEXT_STEP``). An agent would
    learn from that step, in which its action does nothing.

    :param num_envs: number of poles
    :param max_episode_steps: time limit
    :param sutton_barto_reward: whether a step's reward is 0, and -1 where the pole falls
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.DISABLED}

    def step(self, action: NDArray[Any]) -> Step:
        """Step all poles: Gymnasium's arithmetic, to the bit, without its checks of spaces and its resets.

        :raises AssertionError: if an action is neither 0 nor 1
        """
        if self.state is None or np.shape(action) != (self.num_envs,) or not ((action == 0) | (action == 1)).all():
            return super().step(action)  # which says what is wrong
        state = self.state
        _, x_dot, theta, theta_dot = state
        force = np.where(action, self.force_mag, -self.force_mag)
        sin, cos = np.sin(theta), np.cos(theta)
        temp = (force + self.polemass_length * np.square(theta_dot) * sin) / self.total_mass
        leverage = self.length * (4.0 / 3.0 - self.masspole * np.square(cos) / self.total_mass)
        theta_acc = (self.gravity * sin - cos * temp) / leverage
        x_acc = temp - self.polemass_length * theta_acc * cos / self.total_mass
        self.state = state = state + self.tau * np.array((x_dot, x_acc, theta_dot, theta_acc))
        self.steps += 1

        distances = np.abs(state)
        terminated = (distances[0] > self.x_threshold) | (distances[2] > self.theta_threshold_radians)
        truncated = self.steps >= self.max_episode_steps
        reward = -terminated.astype(np.float32) if self._sutton_barto_reward else np.ones(self.num_envs, np.float32)
        return state.T.astype(np.float32), reward, terminated, truncated, {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Reset all poles, or those of the mask ``options["reset_mask"]`` (num_envs,)."""
        mask = None if options is None else options.get("reset_mask")
        if mask is None or self.state is None:
            return super().reset(seed=seed, options=options)
        self.state[:, mask] = self.np_random.uniform(self.low, self.high, size=(4, np.count_nonzero(mask)))
        self.steps[mask] = 0
        return self.state.T.astype(np.float32), {}


class _ClassicControl(VectorEnv[Any, Any, Any]):
    """A batch of one of Gymnasium's environments whose state is a few numbers: ``state``, (numbers, num_envs)."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(self, single: AcrobotEnv | MountainCarEnv, num_envs: int, max_episode_steps: int) -> None:
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state: NDArray[np.float64] | None = None
        self.steps = np.zeros(num_envs, np.int32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Reset all environments, or those of the mask ``options["reset_mask"]`` (num_envs,)."""
        super().reset(seed=seed)
        mask = None if options is None else options.get("reset_mask")
        if mask is None or self.state is None:
            self.state = self._draw_states(self.num_envs)
            self.steps[:] = 0
        else:
            self.state[:, mask] = self._draw_states(int(np.count_nonzero(mask)))
            self.steps[mask] = 0
        return self._observe(self.state), {}

    def step(self, actions: NDArray[Any]) -> Step:
        """Step all environments.

        :raises AssertionError: before the first reset, and if an action is none of the environment's
        """
        assert self.action_space.contains(actions), f"{actions!r} ({type(actions)}) invalid"  # noqa: S101
        assert self.state is not None, "Call reset before using step method."  # noqa: S101
        self.state = self._move(self.state, actions)
        self.steps += 1
        terminated = self._has_arrived(self.state)
        rewards = self._reward(terminated)
        return self._observe(self.state), rewards, terminated, self.steps >= self.max_episode_steps, {}

    def _draw_states(self, n_states: int) -> NDArray[np.float64]:
        raise NotImplementedError

    def _move(self, state: NDArray[np.float64], actions: NDArray[Any]) -> NDArray[np.float64]:
        raise NotImplementedError

    def _has_arrived(self, state: NDArray[np.float64]) -> NDArray[np.bool_]:
        raise NotImplementedError

    def _reward(self, terminated: NDArray[np.bool_]) -> NDArray[np.float64]:
        raise NotImplementedError

    def _observe(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        raise NotImplementedError


class Acrobot(_ClassicControl):
    """Gymnasium's Acrobot, as a batch. An episode that has ended waits for a reset with a mask.

    :param num_envs: number of robots
    :param max_episode_steps: time limit
    """

    def __init__(self, num_envs: int, max_episode_steps: int = 500) -> None:
        super().__init__(_ACROBOT, num_envs, max_episode_steps)

    def _draw_states(self, n_states: int) -> NDArray[np.float64]:
        return self.np_random.uniform(-0.1, 0.1, (4, n_states)).astype(np.float32).astype(np.float64)

    def _move(self, state: NDArray[np.float64], actions: NDArray[Any]) -> NDArray[np.float64]:
        torque = np.array(_ACROBOT.AVAIL_TORQUE)[actions]

        def differentiate(angles_and_velocities: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.array(_ACROBOT._dsdt((*angles_and_velocities, torque))[:4])  # type: ignore[no-untyped-call]

        dt = _ACROBOT.dt
        k1 = differentiate(state)
        k2 = differentiate(state + dt / 2 * k1)
        k3 = differentiate(state + dt / 2 * k2)
        k4 = differentiate(state + dt * k3)
        moved: NDArray[np.float64] = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles = moved[:2]
        while (is_above := angles > np.pi).any():
            angles[is_above] -= 2 * np.pi
        while (is_below := angles < -np.pi).any():
            angles[is_below] += 2 * np.pi
        limits = np.array([[_ACROBOT.MAX_VEL_1], [_ACROBOT.MAX_VEL_2]])
        np.clip(moved[2:], -limits, limits, out=moved[2:])
        return moved

    def _has_arrived(self, state: NDArray[np.float64]) -> NDArray[np.bool_]:
        has_arrived: NDArray[np.bool_] = -np.cos(state[0]) - np.cos(state[1] + state[0]) > 1.0
        return has_arrived

    def _reward(self, terminated: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.where(terminated, 0.0, -1.0)

    def _observe(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        cosines, sines = np.cos(state[:2]), np.sin(state[:2])
        columns = (cosines[0], sines[0], cosines[1], sines[1], state[2], state[3])
        return np.stack(columns, axis=1, dtype=np.float32, casting="same_kind")


class MountainCar(_ClassicControl):
    """Gymnasium's MountainCar, as a batch. An episode that has ended waits for a reset with a mask.

    :param num_envs: number of cars
    :param max_episode_steps: time limit
    :param goal_velocity: least velocity at the goal
    """

    changeable_params = ("goal_velocity",)

    def __init__(self, num_envs: int, max_episode_steps: int = 200, goal_velocity: float = 0) -> None:
        super().__init__(_MOUNTAIN_CAR, num_envs, max_episode_steps)
        self.goal_velocity = goal_velocity

    def _draw_states(self, n_states: int) -> NDArray[np.float64]:
        return np.stack((self.np_random.uniform(-0.6, -0.4, n_states), np.zeros(n_states)))

    def _move(self, state: NDArray[np.float64], actions: NDArray[Any]) -> NDArray[np.float64]:
        car, (position, velocity) = _MOUNTAIN_CAR, state
        velocity = velocity + ((actions - 1) * car.force + np.cos(3 * position) * -car.gravity)
        velocity = np.clip(velocity, -car.max_speed, car.max_speed)
        position = np.clip(position + velocity, car.min_position, car.max_position)
        velocity[(position == car.min_position) & (velocity < 0)] = 0.0
        return np.stack((position, velocity))

    def _has_arrived(self, state: NDArray[np.float64]) -> NDArray[np.bool_]:
        has_arrived: NDArray[np.bool_] = (state[0] >= _MOUNTAIN_CAR.goal_position) & (state[1] >= self.goal_velocity)
        return has_arrived

    def _reward(self, terminated: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.full(len(terminated), -1.0)

    def _observe(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        return state.T.astype(np.float32)
