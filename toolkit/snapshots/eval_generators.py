"""The random generators of the environments that callbacks evaluate in, where these are not the config's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from toolkit.snapshots.object_kinds import is_stateless_env
from toolkit.snapshots.plain_data import encode_value
from toolkit.snapshots.restore import restore_value
from toolkit.utils.callbacks import iterate_nested


def list_own_eval_envs(callbacks: Sequence[BaseCallback]) -> list[VecEnv]:
    """Return the environments that an ``EvalCallback`` has of its own, each once."""
    nested = [callback for outermost in callbacks for callback in iterate_nested(outermost)]
    envs = {id(item.eval_env): item.eval_env for item in nested if isinstance(item, EvalCallback)}
    return [venv for venv in envs.values() if not is_stateless_env(venv)]


def capture_eval_generators(callbacks: Sequence[BaseCallback]) -> list[dict[str, Any]]:
    """Return the seeds of the next reset and the generators of the environments in this process, as plain data."""
    return [
        {
            "seeds": [*venv.unwrapped._seeds],
            "generators": encode_value([getattr(env.unwrapped, "_np_random", None) for env in _get_envs(venv)]),
        }
        for venv in list_own_eval_envs(callbacks)
    ]


def restore_eval_generators(callbacks: Sequence[BaseCallback], saved_states: Sequence[dict[str, Any]]) -> None:
    """Restore what :func:`capture_eval_generators` returned.

    :raises ValueError: if it does not fit; also another of :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
    """
    for venv, state in zip(list_own_eval_envs(callbacks), saved_states, strict=True):
        if any(type(seed) is not int and seed is not None for seed in state["seeds"]):
            raise ValueError("a seed is not a whole number")
        venv.unwrapped._seeds[:] = state["seeds"]
        for env, generator in zip(_get_envs(venv), restore_value(state["generators"]), strict=True):
            if generator is not None:
                env.unwrapped._np_random = generator


def _get_envs(venv: VecEnv) -> list[Any]:
    return [*getattr(venv.unwrapped, "envs", ())]
