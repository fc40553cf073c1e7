"""`load_config` and what it returns: a config that is resolved once."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit import RunConfig, load, load_config, train
from toolkit.config import components
from toolkit.config.load import ResolvedConfig, resolve_config
from toolkit.training.model import untrained_model


@pytest.fixture
def resolved_configs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the configs in the order in which they are resolved."""
    names: list[str] = []
    find = components._find_components

    def record_and_find(config: RunConfig, *arguments: object) -> object:
        names.append(config.name)
        return find(config, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(components, "_find_components", record_and_find)
    return names


def test_training_resolves_its_config_once(config_file: Path, resolved_configs: list[str]) -> None:
    train(config_file, timesteps=20)
    assert len(resolved_configs) == 1


def test_opened_run_resolves_its_config_once_when_needed(config_file: Path, resolved_configs: list[str]) -> None:
    directory = train(config_file, timesteps=20).directory
    resolved_configs.clear()
    run = load(directory)
    assert not resolved_configs
    run.evaluate(episodes=1)
    run.evaluate(episodes=1)
    assert len(resolved_configs) == 1


def test_resolved_config_behaves_like_run_config(config_file: Path) -> None:
    config = load_config(config_file, ["seed=3"])
    plain = RunConfig.model_validate(config.model_dump())
    assert isinstance(config, RunConfig)
    assert (config.seed, config.to_yaml()) == (3, plain.to_yaml())
    assert config == plain
    assert plain == config
    assert resolve_config(config) is config
    assert resolve_config(plain).components.algorithm.cls is config.components.algorithm.cls


def test_copy_with_other_values_has_no_components(config_file: Path) -> None:
    copied = load_config(config_file).model_copy(update={"seed": 5})
    assert copied.seed == 5
    assert not isinstance(copied, ResolvedConfig)


def test_without_callbacks_drops_values_and_classes(config_file: Path) -> None:
    override = "callbacks=[{name: success, params: {threshold: 9}}, progress]"
    config = load_config(config_file, [override]).with_seed(4)
    remaining = config.without_callbacks(lambda callback: callback.name == "success")
    assert remaining.seed == 4
    assert [callback.name for callback in remaining.callbacks] == ["progress"]
    assert [callback.name for callback in remaining.components.callbacks] == ["progress"]


def test_objects_built_twice_share_no_arguments(config_file: Path) -> None:
    noise = "{name: 'stable_baselines3.common.noise:OrnsteinUhlenbeckActionNoise', params: {mean: 0.0, sigma: 0.1}}"
    overrides = ["env.id=Pendulum-v1", "env.wrappers=[]", "algorithm.name=td3", "algorithm.params={}"]
    config = load_config(config_file, [*overrides, f"algorithm.params.action_noise={noise}"])
    models = [untrained_model(config) for _ in range(2)]
    assert models[0].action_noise is not models[1].action_noise
    assert models[0].policy_kwargs["net_arch"] is not models[1].policy_kwargs["net_arch"]
