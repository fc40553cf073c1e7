"""The promises of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from toolkit.testing.algorithms import check_load_from_run, make_short_config, sample_observations, train_and_check
from toolkit.testing.component import (
    DEFAULT_ENV,
    NO_PARAMS,
    ConformanceError,
    Env,
    name_component,
    report_exceptions,
)
from toolkit.testing.short_runs import find_different_tensors, join_names
from toolkit.training.model import untrained_model


def check_policy(
    policy: str | type[BasePolicy],
    *,
    params: Mapping[str, Any] = NO_PARAMS,
    algorithm: str = "dqn",
    env: Env = DEFAULT_ENV,
) -> None:
    """Check that a policy trains, predicts, and can be saved and loaded with its algorithm and by itself.

    :param policy: its name or its class
    :param params: arguments of its constructor besides spaces and schedule: SB3's ``policy_kwargs``
    :param algorithm: name of an algorithm that it works with
    :param env: an environment that both can act in: a Gymnasium id, or a mapping like ``env`` in the YAML
    :raises ConformanceError: with the first promise that it breaks, and what to change
    :raises ToolkitError: if the policy or algorithm does not exist or cannot be built
    """
    with name_component(policy) as name, TemporaryDirectory() as folder:
        config = make_short_config(env, {"name": algorithm, "policy": name, "policy_params": dict(params)})
        label = type(untrained_model(config).policy).__name__
        run, model = train_and_check(label, config, Path(folder) / "run")
        _check_predictions(label, model, sample_observations(config, model))
        check_load_from_run(label, run, model)
        _check_load_alone(label, model, Path(folder) / "policy")


def _check_predictions(label: str, model: BaseAlgorithm, observations: list[Any]) -> None:
    """Check the actions for batches of four observations and for single ones."""
    space = model.action_space
    advice = "accept one observation, or a batch with the batch dimension first"
    for batch in observations:
        single = {key: value[0] for key, value in batch.items()} if isinstance(batch, dict) else batch[0]
        with report_exceptions(f"{label}.predict", advice):
            actions, action = (model.policy.predict(each, deterministic=True)[0] for each in (batch, single))
        if len(np.atleast_1d(actions)) != 4 or not all(space.contains(each) for each in actions):
            raise ConformanceError(
                f"{label}.predict returned {actions!r} for 4 observations; return one action of {space} for each"
            )
        if not space.contains(np.asarray(action)[()]):
            raise ConformanceError(
                f"{label}.predict returned {action!r} for one observation; return an action of {space}"
            )


def _check_load_alone(label: str, model: BaseAlgorithm, path: Path) -> None:
    """Check ``policy.save`` and ``Policy.load``, without the algorithm."""
    advice = (
        "add the constructor's arguments to _get_constructor_parameters, and keep tensors as parameters or buffers"
    )
    with report_exceptions(f"{label}: policy.save and {label}.load", advice):
        model.policy.save(str(path))
        loaded_policy = type(model.policy).load(str(path))
    if names := find_different_tensors(model.policy, loaded_policy):
        raise ConformanceError(f"{label}: policy.save and {label}.load lose {join_names(names)}; {advice}")
