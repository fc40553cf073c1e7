"""What a callback promises."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.config.load import ResolvedConfig
from toolkit.snapshots.plain_data import is_equal
from toolkit.testing.component import STATE_ADVICE, ConformanceError, Env, config_of, env_of
from toolkit.testing.short_runs import Observer, differing, dry_run, few, rehearse_in_two
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import train

_TIMESTEPS = 256
_N_ENVS = (1, 4)
_BREAK = 160  # after the second of four rollouts
_PER_ENV = "`self.locals` has an entry for each environment, and num_timesteps grows by their number"


def check(name: str, params: Mapping[str, Any], env: Env, changes_training: bool) -> None:
    """Check everything.

    :raises ConformanceError: with the first promise that is not kept
    :raises ConfigError: if the callback cannot be built
    """
    callbacks = [{"name": name, "params": dict(params)}]
    for n_envs in _N_ENVS:
        config, without = _config(env, n_envs, callbacks), _config(env, n_envs, [])
        label = config.components.callbacks[0].cls.__name__
        with TemporaryDirectory() as folder:
            undisturbed = Observer()
            if not changes_training:
                train(without, Path(folder) / "without", [undisturbed])
            failed = f"{label}: training with {n_envs} environment{'s' if n_envs > 1 else ''} failed"
            run, observer = dry_run(config, Path(folder) / "with", failed, f"mend what was raised; {_PER_ENV}")
            if not changes_training:
                _leaves_training_alone(label, observer, undisturbed)
            if observer.missed:
                seen = f"{few(observer.missed)} cannot be saved, so a run could not be resumed exactly"
                raise ConformanceError(f"{label}: {seen}; {STATE_ADVICE}")
            if n_envs > 1:
                _goes_on(label, config, run, observer)


def _config(env: Env, n_envs: int, callbacks: list[dict[str, Any]]) -> ResolvedConfig:
    params = {"n_steps": 64 // n_envs, "batch_size": 32, "n_epochs": 1}
    return config_of(
        timesteps=_TIMESTEPS,
        env={**env_of(env), "n_envs": n_envs},
        algorithm={"name": "ppo", "params": params, "policy_params": {"net_arch": [8]}},
        callbacks=callbacks,
        snapshots={"every_timesteps": 64, "every_minutes": None},
    )


def _leaves_training_alone(label: str, observer: Observer, undisturbed: Observer) -> None:
    meant = "if that is its purpose, say so: changes_training=True"
    if observer.model.num_timesteps != undisturbed.model.num_timesteps:
        seen = f"ended training at timestep {observer.model.num_timesteps} of {undisturbed.model.num_timesteps}"
        raise ConformanceError(f"{label} {seen}; _on_step returns True to go on; {meant}")
    if differing(observer.model, undisturbed.model):
        advice = (
            "a callback that only looks on steps environments of its own, and draws from a generator of its own "
            "(np.random.default_rng(seed)), not from np.random, random or torch's"
        )
        raise ConformanceError(
            f"{label} changed training: the final weights are others than without it; {advice}; {meant}"
        )


def _goes_on(label: str, config: ResolvedConfig, run: RunDirectory, whole: Observer) -> None:
    """Break a run off and resume it: it comes to the same end. What another whole run has otherwise is a clock."""
    with TemporaryDirectory() as folder:
        failed = f"{label}: going on after a break with `toolkit resume` failed"
        resumed = rehearse_in_two(config, Path(folder) / "two", _BREAK, failed, STATE_ADVICE)
        if resumed is None:
            return
        names = _otherwise(whole, run, resumed, RunDirectory(Path(folder) / "two", config))
        if names:
            again, observer = dry_run(config, Path(folder) / "again", failed, STATE_ADVICE)
            names -= _otherwise(whole, run, observer, again)
    if names:
        seen = f"after a break and `toolkit resume` this is not as without the break: {few(sorted(names))}"
        raise ConformanceError(f"{label}: {seen}; {STATE_ADVICE}")


def _otherwise(one: Observer, first: RunDirectory, other: Observer, second: RunDirectory) -> set[str]:
    """Name what two runs ended up with that is not the same."""
    held, also = (_held(observer) for observer in (one, other))
    names = {name for name in held.keys() | also.keys() if not is_equal(held.get(name), also.get(name))}
    names |= {f"progress.csv ({name})" for name, _ in _columns(first).items() ^ _columns(second).items()}
    return names | {f"the weights ({name})" for name in differing(one.model, other.model)}


def _held(observer: Observer) -> dict[str, Any]:
    held = observer.held["state"]
    return held if isinstance(held, dict) else {"state_dict": held}


def _columns(run: RunDirectory) -> dict[str, tuple[str, ...]]:
    """Return what training logged, without times."""
    with (run.directory / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: tuple(row[name] for row in rows) for name in (rows[0] if rows else ()) if not name.startswith("time/")
    }
