"""`toolkit import-sb3`: a stock SB3 zip becomes a run directory; only its tensors are read, and they must fit."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import ARS
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support import Toolkit, files_in

import toolkit as tk
from toolkit.config.load import load_config
from toolkit.training.model import load_model

STOCK_MODELS: dict[str, tuple[type[BaseAlgorithm], str, dict[str, Any]]] = {
    "ppo": (PPO, "CartPole-v1", {"n_steps": 16, "batch_size": 16, "n_epochs": 1}),
    "dqn": (DQN, "CartPole-v1", {"learning_starts": 8, "buffer_size": 100}),
    "sac": (SAC, "Pendulum-v1", {"learning_starts": 8, "buffer_size": 100}),
}


def save_stock_model(name: str) -> BaseAlgorithm:
    """Train a stock model for a few steps, save it as `stock.zip`, and write a config for it as `config.yaml`."""
    cls, env, params = STOCK_MODELS[name]
    model = cls("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=1, **params).learn(32)
    model.save("stock.zip")
    config = {
        "timesteps": 32,
        "env": {"id": env, "max_episode_steps": 20},
        "algorithm": {"name": name, "params": params, "policy_params": {"net_arch": [8]}},
    }
    Path("config.yaml").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("name", STOCK_MODELS)
def test_imported_model_acts_like_stock_model(name: str, toolkit: Toolkit) -> None:
    model = save_stock_model(name)
    result = toolkit("import-sb3", "stock.zip", "--config", "config.yaml")
    assert (result.status, result.err) == (0, "")
    summary, run_line, evaluate, record = result.out.splitlines()
    assert (summary, run_line) == ("imported the weights in stock.zip", "  run    runs/config-1")
    assert evaluate.endswith("toolkit evaluate runs/config-1")
    assert record.endswith("toolkit record runs/config-1 --format gif")
    run = tk.load("runs/config-1")
    loaded = load_model(run)
    for name_of_part, tensors in model.get_parameters().items():
        if "optimizer" not in name_of_part:
            assert all(torch.equal(loaded.get_parameters()[name_of_part][key], tensors[key]) for key in tensors)
    for observation in [model.observation_space.sample() for _ in range(20)]:
        expected, _ = model.predict(observation, deterministic=True)
        assert (loaded.predict(observation, deterministic=True)[0] == expected).all()
    assert toolkit("evaluate", run.directory, "--episodes", "2").status == 0
    assert toolkit("record", run.directory).status == 0
    assert STOCK_MODELS[name][0].load(run.model_path), "the run's model is a stock zip again"


def test_import_keeps_entropy_coefficient() -> None:
    model = save_stock_model("sac")
    model.log_ent_coef.data.fill_(-1.5)
    model.save("stock.zip")
    from toolkit.migration.sb3_model import import_sb3

    loaded: Any = load_model(import_sb3(Path("stock.zip"), tk.load_config("config.yaml")))
    assert loaded.log_ent_coef.item() == -1.5


def test_imported_run_names_its_source_and_has_no_result(toolkit: Toolkit) -> None:
    save_stock_model("dqn")
    assert toolkit("import-sb3", "stock.zip", "--config", "config.yaml", "--out", "here").status == 0
    names = {name.partition("/")[0] for name in files_in(Path("here"))}
    assert names == {"config.yaml", "environment.json", "model.zip", "wrappers"}
    origin = json.loads(Path("here/environment.json").read_text())["imported_from"]
    digest = hashlib.sha256(Path("stock.zip").read_bytes()).hexdigest()
    assert origin == {"file": "stock.zip", "sha256": digest, "notes": []}
    assert tk.load("here").result is None
    plotted = toolkit("plot", "here")
    assert (plotted.status, "here: has no monitor.csv" in plotted.err) == (2, True)


@pytest.mark.parametrize(
    ("env", "place", "name"),
    [
        ({"vec_wrappers": ["vec_normalize"]}, "env.vec_wrappers.0", "vec_normalize"),
        (
            {"wrappers": ["gymnasium.wrappers:NormalizeObservation"]},
            "env.wrappers.0",
            "gymnasium.wrappers:NormalizeObservation",
        ),
    ],
)
def test_import_without_statistics_of_wrapper_is_refused(
    env: dict[str, Any], place: str, name: str, toolkit: Toolkit
) -> None:
    save_stock_model("ppo")
    config = json.loads(Path("config.yaml").read_text())
    Path("config.yaml").write_text(json.dumps(config | {"env": config["env"] | env}))
    result = toolkit("import-sb3", "stock.zip", "--config", "config.yaml")
    assert (result.status, result.out) == (2, "")
    assert f"{place}: '{name}' acts on statistics of its training, which the zip does not have" in result.err
    assert not Path("runs").exists()


def test_import_accepts_wrapper_that_normalizes_rewards_alone(toolkit: Toolkit) -> None:
    save_stock_model("ppo")
    write_vec_wrappers({"name": "vec_normalize", "params": {"norm_obs": False}})
    assert toolkit("import-sb3", "stock.zip", "--config", "config.yaml").status == 0


def test_import_without_statistics_is_accepted_and_said_if_asked_for(toolkit: Toolkit) -> None:
    save_stock_model("ppo")
    write_vec_wrappers("vec_normalize")
    result = toolkit("import-sb3", "stock.zip", "--config", "config.yaml", "--untrained-statistics")
    assert (result.status, result.err) == (0, "")
    assert "  note   vec_normalize acts without the statistics of a training.\n" in result.out
    assert toolkit("evaluate", "--episodes", "1").status == 0


# --- statistics of VecNormalize --------------------------------------------------------------------------------------

RIGHT_OF_1000 = """\
import gymnasium as gym
import numpy as np

class RightOf1000(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1e4, 1e4, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def observe(self):
        self.right = int(self.np_random.integers(2))
        return np.array([998 + 4 * self.right], np.float32)

    def step(self, action):
        self.count += 1
        reward = float(action == self.right)
        return self.observe(), reward, False, self.count == 20, {}

if "RightOf1000-v0" not in gym.registry:  # another test has imported this file
    gym.register("RightOf1000-v0", RightOf1000)
"""


def write_vec_wrappers(*vec_wrappers: Any) -> None:
    config = json.loads(Path("config.yaml").read_text())
    Path("config.yaml").write_text(json.dumps(config | {"env": config["env"] | {"vec_wrappers": vec_wrappers}}))


def save_normalizing_model(**params: Any) -> None:
    """Save a model that acts right on observations minus 1000, with the statistics of 1000, and a config."""
    Path("right.py").write_text(RIGHT_OF_1000)
    config = {
        "import_modules": ["./right.py"],
        "timesteps": 32,
        "env": {"id": "RightOf1000-v0", "vec_wrappers": [{"name": "vec_normalize", "params": params}]},
        "algorithm": {"name": "ppo", "params": {"n_steps": 16, "batch_size": 16}, "policy_params": {"net_arch": []}},
    }
    Path("config.yaml").write_text(json.dumps(config))
    load_config("config.yaml")  # registers the environment
    venv = VecNormalize(DummyVecEnv([lambda: gym.make("RightOf1000-v0")]), **params)
    venv.obs_rms.mean, venv.obs_rms.var, venv.obs_rms.count = np.array([1000.0]), np.array([4.0]), 100.0
    venv.save("vecnormalize.pkl")
    model = PPO("MlpPolicy", venv, n_steps=16, batch_size=16, policy_kwargs={"net_arch": []})
    model.policy.action_net.weight.data = torch.tensor([[-1.0], [1.0]])
    model.policy.action_net.bias.data.fill_(0)
    model.save("stock.zip")


IMPORT = ("import-sb3", "stock.zip", "--config", "config.yaml")


def test_import_with_statistics_evaluates_to_return_of_stock_model(toolkit: Toolkit) -> None:
    save_normalizing_model()
    result = toolkit(*IMPORT, "--vec-normalize", "vecnormalize.pkl", "--out", "here")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("imported the weights and statistics in stock.zip and vecnormalize.pkl\n")
    assert tk.evaluate(tk.load("here"), episodes=3).returns == (20.0, 20.0, 20.0)
    assert toolkit(*IMPORT, "--untrained-statistics", "--out", "without").status == 0
    assert tk.evaluate(tk.load("without"), episodes=3).mean_return < 20
    digest = hashlib.sha256(Path("vecnormalize.pkl").read_bytes()).hexdigest()
    origin = json.loads(Path("here/environment.json").read_text())["imported_from"]
    assert origin["statistics"] == {"file": "vecnormalize.pkl", "sha256": digest}


STATISTICS_MISTAKES: dict[str, tuple[list[Any], str]] = {
    "no normalization": ([], "config.yaml:1: env.vec_wrappers: has no vec_normalize, for the statistics in"),
    "two normalizations": (["vec_normalize"] * 2, "config.yaml:1: env.vec_wrappers: has several of VecNormalize"),
    "another clip": (
        [{"name": "vec_normalize", "params": {"clip_obs": 3.0}}],
        "env.vec_wrappers.0.params.clip_obs: is 3.0 here, and 10.0 in vecnormalize.pkl; set it to 10.0",
    ),
    "rewards alone": (
        [{"name": "vec_normalize", "params": {"norm_obs": False}}],
        "norm_obs: is false here, and true in vecnormalize.pkl; set it to true",
    ),
    "stacked first": (
        [{"name": "vec_frame_stack", "params": {"n_stack": 2}}, "vec_normalize"],
        "error: stock.zip: does not fit the config: policy: ",
    ),
}


@pytest.mark.parametrize(("vec_wrappers", "message"), STATISTICS_MISTAKES.values(), ids=STATISTICS_MISTAKES)
def test_statistics_that_do_not_fit_config_are_refused(
    vec_wrappers: list[Any], message: str, toolkit: Toolkit
) -> None:
    save_normalizing_model()
    write_vec_wrappers(*vec_wrappers)
    result = toolkit(*IMPORT, "--vec-normalize", "vecnormalize.pkl", "--out", "here")
    assert (result.status, result.out) == (2, "")
    assert message in result.err
    assert not Path("here").exists()


def test_statistics_of_other_observations_are_refused(toolkit: Toolkit) -> None:
    save_normalizing_model()
    VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")])).save("other.pkl")
    result = toolkit(*IMPORT, "--vec-normalize", "other.pkl", "--out", "here")
    message = "its statistics of observations have the shape (4,) and should have (1,)"
    assert (result.status, result.err) == (2, f"error: other.pkl: does not fit the config: {message}\n")
    assert not Path("here").exists()


def test_hostile_statistics_execute_nothing_and_leave_no_run(toolkit: Toolkit) -> None:
    save_normalizing_model()
    Path("hostile.pkl").write_bytes(pickle.dumps(Bomb()))
    for name, message in {
        "hostile.pkl": "is damaged, or no VecNormalize: it names",
        "absent.pkl": "absent.pkl",
    }.items():
        result = toolkit(*IMPORT, "--vec-normalize", name, "--out", "here")
        assert (result.status, result.out, len(result.err.splitlines())) == (2, "", 1)
        assert message in result.err
    assert not Path("executed").exists()
    assert not Path("here").exists()


# --- zips of older versions ------------------------------------------------------------------------------------------


def rewrite_zip(change: Callable[[str, Any], Any], **options: Any) -> None:
    """Write `stock.zip` again, with each part as `change` returns it; without the part if that is None."""
    with zipfile.ZipFile("stock.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile("stock.zip", "w") as archive:
        for name, content in members.items():
            part = change(name, torch.load(BytesIO(content), weights_only=True)) if name.endswith(".pth") else content
            if isinstance(part, bytes):
                archive.writestr(name, part)
            elif part is not None:
                file = BytesIO()
                torch.save(part, file, **options)
                archive.writestr(name, file.getvalue())


def import_stock(toolkit: Toolkit) -> tuple[BaseAlgorithm, str]:
    """Import `stock.zip`; return the loaded model and what the command printed."""
    result = toolkit(*IMPORT, "--out", "here")
    assert (result.status, result.err) == (0, "")
    return load_model(tk.load("here")), result.out


def assert_equal_states(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_dqn_whose_optimizer_has_target_network_is_imported_with_optimizer(toolkit: Toolkit) -> None:
    model = save_stock_model("dqn")
    before = model.get_parameters()["policy.optimizer"]
    n_parameters = len(before["param_groups"][0]["params"])

    def add_target_network(name: str, part: Any) -> Any:
        if name == "policy.optimizer.pth":
            part["param_groups"][0]["params"] = [*range(2 * n_parameters)]  # as SB3 before 2.4
        return part

    rewrite_zip(add_target_network)
    loaded, printed = import_stock(toolkit)
    assert "note" not in printed
    after = loaded.get_parameters()["policy.optimizer"]
    assert after["param_groups"][0]["params"] == [*range(n_parameters)]
    assert_equal_states(after["state"][0], before["state"][0])
    assert_equal_states(loaded.policy.state_dict(), model.policy.state_dict())


def test_optimizer_of_other_parameters_is_left_out_and_said(toolkit: Toolkit) -> None:
    model = save_stock_model("sac")

    def remove_parameters(name: str, part: Any) -> Any:
        if name == "actor.optimizer.pth":
            part["param_groups"][0]["params"] = [0]
        return None if name == "critic.optimizer.pth" else part

    rewrite_zip(remove_parameters)
    loaded, printed = import_stock(toolkit)
    assert "  note   actor.optimizer is of other parameters: this optimizer starts anew.\n" in printed
    assert "  note   it has no critic.optimizer.pth: this optimizer starts anew.\n" in printed
    assert_equal_states(loaded.policy.state_dict(), model.policy.state_dict())


def test_files_of_torch_before_1_6_are_imported(toolkit: Toolkit) -> None:
    model = save_stock_model("sac")
    address = 94_611_294_050_112

    def name_by_address(name: str, part: Any) -> Any:
        if "optimizer" in name:
            group = part["param_groups"][0]
            part["state"] = {address - 8 * index: moments for index, moments in part["state"].items()}
            group["params"] = [address - 8 * index for index in group["params"]]
        return part

    rewrite_zip(name_by_address, _use_new_zipfile_serialization=False)
    content = Path("stock.zip").read_bytes()
    Path("stock.zip").write_bytes(content.replace(b"pytorch_variables.pth", b"tensors.pth\0\0\0\0\0\0\0\0\0\0"))
    loaded, printed = import_stock(toolkit)
    assert "note" not in printed
    before, after = model.get_parameters(), loaded.get_parameters()
    assert_equal_states(after["policy"], before["policy"])
    assert_equal_states(after["actor.optimizer"]["state"][1], before["actor.optimizer"]["state"][1])


def test_features_extractor_saved_once_is_imported(toolkit: Toolkit) -> None:
    Path("images.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Images(gym.Env):\n"
        "    observation_space, action_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8), gym.spaces.Discrete(2)\n"
        "gym.register('Images-v0', Images)\n"
    )
    config = {
        "import_modules": ["./images.py"],
        "timesteps": 32,
        "env": {"id": "Images-v0"},
        "algorithm": {"name": "a2c", "policy": "CnnPolicy"},
    }
    Path("config.yaml").write_text(json.dumps(config))
    load_config("config.yaml")
    model = A2C("CnnPolicy", gym.make("Images-v0", disable_env_checker=True))
    model.save("stock.zip")
    copies = ("pi_features_extractor", "vf_features_extractor")
    rewrite_zip(
        lambda name, part: (
            {key: part[key] for key in part if not key.startswith(copies)} if name == "policy.pth" else part
        )
    )
    loaded, _ = import_stock(toolkit)
    assert_equal_states(loaded.policy.state_dict(), model.policy.state_dict())


def test_layers_shared_by_actor_and_critic_are_copied_to_both(toolkit: Toolkit) -> None:
    save_stock_model("ppo")
    text = Path("config.yaml").read_text().replace('"net_arch": [8]', '"net_arch": [8, 8]')
    Path("config.yaml").write_text(text)
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8, 8]}, seed=1)
    extractor = model.policy.mlp_extractor
    extractor.value_net[0].load_state_dict(extractor.policy_net[0].state_dict())
    model.save("stock.zip")

    def share_first_layer(name: str, part: Any) -> Any:
        if name != "policy.pth":
            return part
        former = {key: value for key, value in part.items() if "mlp_extractor" not in key}
        for kind in ("weight", "bias"):
            former[f"mlp_extractor.shared_net.0.{kind}"] = part[f"mlp_extractor.policy_net.0.{kind}"]
            for net in ("policy_net", "value_net"):
                former[f"mlp_extractor.{net}.0.{kind}"] = part[f"mlp_extractor.{net}.2.{kind}"]
        return former

    rewrite_zip(share_first_layer)
    loaded, _ = import_stock(toolkit)
    assert_equal_states(loaded.policy.state_dict(), model.policy.state_dict())


def test_linear_policy_of_first_ars_is_imported(toolkit: Toolkit) -> None:
    config = {"timesteps": 32, "env": {"id": "CartPole-v1"}, "algorithm": {"name": "ars", "policy": "LinearPolicy"}}
    Path("config.yaml").write_text(json.dumps(config))
    model = ARS("LinearPolicy", "CartPole-v1", seed=1)
    model.save("stock.zip")
    rewrite_zip(lambda name, part: {key.replace(".0.", "."): value for key, value in part.items()})
    loaded, _ = import_stock(toolkit)
    assert_equal_states(loaded.policy.state_dict(), model.policy.state_dict())


class Bomb:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("member", ["data", "policy.pth", "policy.optimizer.pth", "pytorch_variables.pth", "all"])
def test_hostile_zip_executes_nothing(member: str, toolkit: Toolkit) -> None:
    save_stock_model("dqn")
    with zipfile.ZipFile("stock.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile("hostile.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, pickle.dumps(Bomb()) if member in (name, "all") else content)
    result = toolkit("import-sb3", "hostile.zip", "--config", "config.yaml")
    assert not Path("executed").exists()
    if member in ("data", "pytorch_variables.pth"):  # which DQN has no use for
        assert result.status == 0
    else:
        assert (result.status, result.out) == (2, "")
        assert result.err.startswith("error: hostile.zip: is damaged, or no SB3 model: policy")
        assert not Path("runs").exists()


MISTAKES = {
    "another network": ("config.yaml", "[8]", "[9]", "error: stock.zip: does not fit the config: policy: q_net"),
    "another algorithm": (
        "config.yaml",
        '"dqn"',
        '"qrdqn"',
        "error: stock.zip: does not fit the config: policy",
    ),
    "another environment": ("config.yaml", "CartPole-v1", "Acrobot-v1", "error: stock.zip: does not fit the config: "),
    "a bad config": ("config.yaml", "net_arch", "net_arc", "config.yaml:1: algorithm.policy_params.net_arc"),
}


@pytest.mark.parametrize(("file", "old", "new", "message"), MISTAKES.values(), ids=MISTAKES)
def test_import_refuses_config_that_does_not_fit(
    file: str, old: str, new: str, message: str, toolkit: Toolkit
) -> None:
    save_stock_model("dqn")
    Path(file).write_text(Path(file).read_text().replace(old, new))
    result = toolkit("import-sb3", "stock.zip", "--config", "config.yaml")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(message)
    assert files_in(Path()) == {"stock.zip", "config.yaml"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("absent.zip --config config.yaml", "error: absent.zip: does not exist"),
        (". --config config.yaml", "error: .: is not a file"),
        ("stock.zip --config absent.yaml", "absent.yaml: cannot be read"),
        ("config.yaml --config config.yaml", "is damaged, or no SB3 model: BadZipFile: File is not a zip file\n"),
        ("stock.zip", "--config"),
    ],
)
def test_import_names_missing_input(arguments: str, message: str, toolkit: Toolkit) -> None:
    save_stock_model("dqn")
    result = toolkit("import-sb3", *arguments.split())
    assert (result.status, result.out) == (2, "")
    assert message in result.err
