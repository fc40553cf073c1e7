"""The wrappers around SB3's vec envs."""

from __future__ import annotations

from collections.abc import Iterator

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper


def iterate_vec_wrappers(venv: VecEnv | None) -> Iterator[VecEnvWrapper]:
    """Yield the wrappers of a vec env, outermost first; none if there is no vec env."""
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv
