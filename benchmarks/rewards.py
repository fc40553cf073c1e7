"""Show how a reward decides whether Double DQN's Q-values settle or diverge.

    python benchmarks/rewards.py [--parts NAME...] [--seeds FIRST END] [--timesteps N] [--results DIR]

The tables have one value for each seed. Runs train until they are solved, or for all timesteps, on one torch thread.
Every 2,000 timesteps a probe takes measures on 1,024 transitions of the replay buffer. It has its own generators, so
training is the same without it. Parts that are not measured keep their last results.

`Q` is the mean Q-value of the greedy action. `Q at the end of episodes` is that of actions that ended an episode. Its
true value is the last reward, because nothing follows. `bound` is the highest true value of any agent. `action gap` is
the mean distance of the two Q-values. `same action` is the share of the more frequent action since the last measure.

`outside 1` is the share of TD errors whose size is above 1, where Huber's slope is constant. `TD error` is the mean of
target minus Q-value, and `slope` its mean after clipping to [-1, 1], as in Huber's gradient. The gradient's norm is
that before clipping. `updates per copy` are those between two updates of the target network. `Q at most` is the
largest `Q` of a training.

`solved` is the timestep at which the mean raw return of the last 100 episodes was 195, or that mean at the end. An
agent that always takes the same action has 9.3. With normalized rewards, Q-values are in the unit of those. `t` is the
last step of a training episode, counted from 0: median (10 % to 90 %) of the last fifth of a training.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from report import PROJECT, format_table, make_parser, print_progress, write_page
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from torch.nn import functional

import toolkit
from toolkit.algorithms.targets import compute_double_dqn_target
from toolkit.algorithms.updates import LOSSES
from toolkit.utils.figures import INK, add_legend, distinct_colours, figure_style, style_axes

FEW_UPDATES = PROJECT / "configs" / "experiments" / "base" / "cartpole_few_updates.yaml"
DEFAULT = PROJECT / "configs" / "cartpole_ddqn.yaml"
WRAPPERS = PROJECT / "configs" / "tune" / "cartpole_rewards.py"
PROBE_INTERVAL = 2_000  # timesteps
PROBE_SIZE = 1_024  # transitions
EARLY = 8_000  # timesteps; the first table shows this moment
LIMIT = 200  # steps of an episode
PARAMS = "algorithm.params."

Overrides = dict[str, Any]
Row = dict[str, float | None]
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Reward:
    """A reward to learn from.

    :param largest: of a step, or of an episode if that is paid once
    """

    wrappers: list[Any]
    largest: float = 1.0
    is_paid_once: bool = False


OWN, TIMES_10, TIMES_01, GRADED = "own reward", "own reward times 10", "own reward times 0.1", "graded end"
REWARDS = {
    OWN: Reward([]),
    "angle penalty": Reward(["angle_penalty"]),
    "`Upright`": Reward([{"name": f"{WRAPPERS}:Upright", "params": {"weight": 0.5}}]),
    TIMES_10: Reward([{"name": f"{WRAPPERS}:ScaledReward", "params": {"factor": 10.0}}], largest=10.0),
    TIMES_01: Reward([{"name": f"{WRAPPERS}:ScaledReward", "params": {"factor": 0.1}}], largest=0.1),
    "terminal clip": Reward([{"name": "terminal_reward_clip", "params": {"success_steps": 195}}], is_paid_once=True),
    GRADED: Reward(["graded_terminal_reward"], is_paid_once=True),
}
NORMALIZED: Overrides = {"env.vec_wrappers": [{"name": "vec_normalize", "params": {"norm_obs": False}}]}
LIMIT_TERMINAL: Overrides = {f"{PARAMS}replay_buffer_kwargs": {"handle_timeout_termination": False}}
CHANGES: dict[str, Overrides] = {
    "nothing": {},
    "learning rate 1e-3 throughout": {f"{PARAMS}learning_rate": 1e-3},
    "learning rate 1e-4 throughout": {f"{PARAMS}learning_rate": 1e-4},
    "gamma 0.99": {f"{PARAMS}gamma": 0.99},
    "gamma 0.9": {f"{PARAMS}gamma": 0.9},
    "gradients not clipped": {f"{PARAMS}max_grad_norm": math.inf},
    "epsilon 0.02": {f"{PARAMS}exploration_final_eps": 0.02},
    "exploration over 20 % of the steps": {f"{PARAMS}exploration_fraction": 0.2},
    "time limit is terminal": LIMIT_TERMINAL,
    "plain DQN targets": {f"{PARAMS}double": False},
    "`mse` instead of `huber`": {f"{PARAMS}loss": "mse"},
    "`n_steps: 5`": {f"{PARAMS}n_steps": 5},
    "rewards normalized": NORMALIZED,
    "target copied every 2,000 timesteps": {f"{PARAMS}target_update_interval": 2_000},
    "4 updates a vector step": {f"{PARAMS}gradient_steps": 4},
    "4 updates, target copied every 96 timesteps": {
        f"{PARAMS}gradient_steps": 4,
        f"{PARAMS}target_update_interval": 96,
    },
    "16 environments": {"env.n_envs": 16},
    "16 environments, target copied every 160 timesteps": {
        "env.n_envs": 16,
        f"{PARAMS}target_update_interval": 160,
    },
}
STEPS_TO_DEFAULT: dict[str, Overrides] = {
    "16 environments": {"env.n_envs": 16},
    "two updates of 64 a vector step": {f"{PARAMS}gradient_steps": 2, f"{PARAMS}batch_size": 64},
    "target copied every 1,000 timesteps": {f"{PARAMS}target_update_interval": 1_000},
    "`n_steps: 3`": {f"{PARAMS}n_steps": 3},
    "rewards normalized": NORMALIZED,
    "gamma 0.999": {f"{PARAMS}gamma": 0.999},
    "epsilon to 0.01 after 15 % of the steps": {
        f"{PARAMS}exploration_final_eps": 0.01,
        f"{PARAMS}exploration_fraction": 0.15,
    },
    "learning rate from 5e-4 to 2e-5, exponentially": {
        f"{PARAMS}learning_rate": {"name": "exponential", "params": {"start": 5e-4, "end": 2e-5}}
    },
}
CHANGES_TO_DEFAULT: dict[str, Overrides] = {
    "nothing": {},
    "rewards not normalized": {"env.vec_wrappers": []},
    "`n_steps: 1`": {f"{PARAMS}n_steps": 1},
    "gamma 0.97": {f"{PARAMS}gamma": 0.97},
    "learning rate 3e-4 throughout": {f"{PARAMS}learning_rate": 3e-4},
    "one update a vector step": {f"{PARAMS}gradient_steps": 1},
    "48 environments": {"env.n_envs": 48},
    "target copied every 80 timesteps": {f"{PARAMS}target_update_interval": 80},
}
GAMMAS = (0.9, 0.97, 0.99, 0.999)
TIME_AWARE: dict[str, Any] = {
    "name": gym.wrappers.TimeAwareObservation,
    "params": {"flatten": True, "normalize_time": True},
}


class Probe(toolkit.RunCallback):
    """Take measures of a DoubleDQN while it trains, without changing its training.

    :ivar rows: the measures, one row for each time
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self._next_timestep = PROBE_INTERVAL
        self._action_counts = np.zeros(2, dtype=int)

    def _on_step(self) -> bool:
        self._action_counts += np.bincount(np.ravel(self.locals["actions"]), minlength=2)
        if self.num_timesteps >= self._next_timestep and self.model._n_updates:  # type: ignore[attr-defined]
            self.rows.append({key: round_to_digits(value) for key, value in self._measure().items()})
            self._next_timestep += PROBE_INTERVAL
            self._action_counts[:] = 0
        return True

    def _measure(self) -> Row:
        model: Any = self.model
        batch = sample_transitions(model)
        with torch.no_grad():
            targets = compute_double_dqn_target(batch, model.gamma, model.q_net, model.q_net_target)
        q_values = model.q_net(batch.observations)
        values = q_values.gather(dim=1, index=batch.actions.long())
        errors, greedy_q = (targets - values).detach(), q_values.max(dim=1).values
        is_last = batch.dones.bool()
        minibatch = slice(model.batch_size)
        loss = getattr(functional, LOSSES[model.loss])(values[minibatch], targets[minibatch])
        gradients = torch.autograd.grad(loss, [*model.q_net.parameters()])
        return {
            "timestep": self.num_timesteps,
            "updates": model._n_updates,
            "q": greedy_q.mean().item(),
            "max_q": greedy_q.max().item(),
            "action_gap": (q_values[:, 0] - q_values[:, 1]).abs().mean().item(),
            "last_step_share": is_last.float().mean().item(),
            "last_step_q": values[is_last].mean().item() if is_last.any() else None,
            "absolute_td_error": errors.abs().mean().item(),
            "td_error": errors.mean().item(),
            "slope": errors.clamp(-1, 1).mean().item(),
            "share_outside_1": (errors.abs() > 1).float().mean().item(),
            "gradient_norm": torch.stack([gradient.norm() for gradient in gradients]).norm().item(),
            "same_action": float(self._action_counts.max() / self._action_counts.sum()),
            "return": self.context.episodes.mean_return(),
        }


def sample_transitions(model: Any) -> Any:
    """Sample from the replay buffer as an update does; the global generator that the buffer uses stays as it is."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        return model.replay_buffer.sample(PROBE_SIZE, env=unwrap_vec_normalize(model.get_env()))
    finally:
        np.random.set_state(state)


def round_to_digits(value: float | None) -> float | None:
    """Round to four significant digits; whole numbers stay."""
    return value if value is None or isinstance(value, int) else float(f"{value:.4g}")


def main() -> None:
    """Measure the parts, and write the tables and the figure."""
    parser = make_parser(__doc__, repeats=None)
    parser.add_argument(
        "--parts", nargs="*", choices=[*PARTS], default=[*PARTS], help="what to measure; by default all"
    )
    parser.add_argument("--seeds", nargs=2, type=int, default=(300, 302), metavar=("FIRST", "END"))
    parser.add_argument("--timesteps", type=int, default=100_000, help="the most timesteps of a training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    file = arguments.results / "rewards.json"
    measured: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["measured"] if file.exists() else {}
    trainer = Trainer(range(*arguments.seeds), arguments.timesteps)
    for part in arguments.parts:
        measured[part] = PARTS[part][0](trainer)
    measured = {part: measured[part] for part in PARTS if part in measured}
    write_page(
        "rewards", __doc__, "\n\n".join(PARTS[part][1](measured[part]) for part in measured), measured, arguments
    )
    if "rewards" in measured:
        with figure_style():
            draw_figure(measured["rewards"]).savefig(arguments.results / "rewards.svg", metadata={"Date": None})


class Trainer:
    """Train configs on several seeds.

    :param timesteps: the most timesteps of a training
    """

    def __init__(self, seeds: Sequence[int], timesteps: int) -> None:
        self.seeds = seeds
        self.timesteps = timesteps

    def train(self, config: Path, wrappers: list[Any], overrides: Overrides, stops: bool = True) -> list[Outcome]:
        """Train a config with wrappers and overrides, once for each seed.

        :param stops: whether a training stops once it is solved
        """
        outcomes = [
            train_once(
                config, overrides | {"env.wrappers": wrappers, "seed": seed, "timesteps": self.timesteps}, stops
            )
            for seed in self.seeds
        ]
        print_progress(f"{config.stem} {wrappers} {overrides}: {format_solved(outcomes)}")
        return outcomes


def train_once(config: Path, overrides: Overrides, stops: bool) -> Outcome:
    """Train without videos; return the result, the measures and the lengths of the episodes."""
    loaded = toolkit.load_config(config, overrides)
    callbacks = tuple(callback for callback in loaded.callbacks if stops and callback.name == "success")
    probe = Probe()
    with tempfile.TemporaryDirectory() as directory:
        run = toolkit.train(loaded.model_copy(update={"callbacks": callbacks}), Path(directory) / "run", [probe])
        result, lengths = run.result or {}, [length for _, length in run.episodes]
    return {
        "solved_at": result["success"]["timestep"] if result["success"] else None,
        "return": round_to_digits(result["mean_return"]),
        "updates_per_copy": count_updates_per_copy(loaded),
        "largest_q": max(row["q"] or 0.0 for row in probe.rows),
        "share_outside_1": probe.rows[-1]["share_outside_1"],
        "rows": probe.rows,
        "lengths": lengths,
    }


def count_updates_per_copy(config: toolkit.RunConfig) -> int:
    """Return how many updates the online network makes between two updates of the target network."""
    params = config.algorithm.params
    vector_steps = max(params["target_update_interval"] // config.env.n_envs, 1)
    return int(vector_steps // params["train_freq"] * params.get("gradient_steps", 1))


def drop(outcomes: list[Outcome], *keys: str) -> list[Outcome]:
    """Leave out keys of outcomes."""
    return [{key: value for key, value in outcome.items() if key not in keys} for outcome in outcomes]


def measure_rewards(trainer: Trainer) -> dict[str, Any]:
    """Train the config with few updates with each reward, and keep all measures."""
    gamma = toolkit.load_config(FEW_UPDATES).algorithm.params["gamma"]
    return {
        name: {
            "bound": round_to_digits(reward.largest if reward.is_paid_once else reward.largest / (1 - gamma)),
            "seeds": drop(trainer.train(FEW_UPDATES, reward.wrappers, {}), "lengths"),
        }
        for name, reward in REWARDS.items()
    }


def measure_changes(trainer: Trainer) -> dict[str, Any]:
    """Train the config with few updates with the environment's own reward and one change at a time."""
    return {name: drop(trainer.train(FEW_UPDATES, [], change), "rows", "lengths") for name, change in CHANGES.items()}


def measure_steps(trainer: Trainer) -> dict[str, Any]:
    """Train with the environment's own reward, from few updates towards the default, change by change."""
    measured, overrides = {}, {}
    for name, change in STEPS_TO_DEFAULT.items():
        overrides |= change
        measured[name] = drop(trainer.train(FEW_UPDATES, [], overrides), "rows", "lengths")
    return measured


def measure_default(trainer: Trainer) -> dict[str, Any]:
    """Train the default config with one change at a time, with three scales of the reward."""
    return {
        name: {
            reward: drop(trainer.train(DEFAULT, REWARDS[reward].wrappers, change), "rows", "lengths")
            for reward in (OWN, TIMES_10, TIMES_01)
        }
        for name, change in CHANGES_TO_DEFAULT.items()
    }


def measure_graded(trainer: Trainer) -> dict[str, Any]:
    """Train with the graded end for all timesteps; keep the last Q-values, and where late episodes end."""
    wrappers = REWARDS[GRADED].wrappers
    sides: dict[str, tuple[Path, list[Any], Overrides]] = {
        "few updates": (FEW_UPDATES, wrappers, {}),
        "few updates, limit terminal": (FEW_UPDATES, wrappers, LIMIT_TERMINAL),
        "default": (DEFAULT, wrappers, {}),
        "default, time observed": (DEFAULT, [*wrappers, TIME_AWARE], {}),
    }
    measured: dict[str, Any] = {}
    for gamma in GAMMAS:
        measured[str(gamma)] = {}
        for name, (config, all_wrappers, overrides) in sides.items():
            outcomes = trainer.train(config, all_wrappers, overrides | {f"{PARAMS}gamma": gamma}, stops=False)
            measured[str(gamma)][name] = [
                {"q": outcome["rows"][-1]["q"], "t": find_late_steps(outcome["lengths"])} for outcome in outcomes
            ]
    return measured


def find_late_steps(lengths: Sequence[int]) -> list[float]:
    """Return the median, 10 % and 90 % quantiles of the last steps of episodes in the last fifth of a training."""
    ends = np.cumsum(lengths)
    late = [length - 1 for length, end in zip(lengths, ends, strict=True) if end > 0.8 * ends[-1]]
    return [float(step) for step in np.quantile(late, [0.5, 0.1, 0.9])]


def format_solved(outcomes: Sequence[Outcome]) -> str:
    """Write for each seed when it was solved, or its mean return at the end."""
    return " / ".join(
        f"{outcome['solved_at']:,}" if outcome["solved_at"] else f"no: {outcome['return'] or 0:.1f}"
        for outcome in outcomes
    )


def format_seeds(values: Iterable[float | None]) -> str:
    """Write the value of each seed with three significant digits."""
    return " / ".join("" if value is None else format_number(value) for value in values)


def format_number(value: float) -> str:
    """Write a number with three significant digits, whole from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_rewards(measured: Mapping[str, Any]) -> str:
    """Write the tables of the rewards: outcome, early and last measures, and the direction of updates."""
    seeds = {name: reward["seeds"] for name, reward in measured.items()}
    early = {name: [find_row(seed["rows"], EARLY) for seed in each] for name, each in seeds.items()}
    last = {name: [seed["rows"][-1] for seed in each] for name, each in seeds.items()}
    bounds = {name: format_number(reward["bound"]) for name, reward in measured.items()}
    main = {"Q": "q", "Q at the end of episodes": "last_step_q", "outside 1": "share_outside_1"}
    more = {"largest Q": "max_q", "action gap": "action_gap", "size of TD errors": "absolute_td_error"}
    more |= {"gradient norm": "gradient_norm", "same action": "same_action"}
    outcomes = [
        [name, bounds[name], *format_measures(last[name], main), format_solved(seeds[name])] for name in measured
    ]
    moments = sorted({row["timestep"] for row in seeds[OWN][0]["rows"][::8]} | {early[OWN][0]["timestep"]})
    directions = {"TD error": "td_error", "slope": "slope", "share of ends": "last_step_share"}
    return "\n\n".join(
        [
            "## Few updates, by reward",
            f"After {EARLY:,} timesteps:",
            format_table(
                ["reward", "bound", *main],
                [[name, bounds[name], *format_measures(early[name], main)] for name in measured],
            ),
            "At the end of training:",
            format_table(["reward", "bound", *main, "solved"], outcomes),
            f"More measures after {EARLY:,} timesteps, and at the end:",
            format_table(["reward", *more], [[name, *format_measures(early[name], more)] for name in measured]),
            format_table(["reward", *more], [[name, *format_measures(last[name], more)] for name in measured]),
            "The direction of updates with the own reward:",
            format_table(
                ["timesteps", "Q", *directions],
                [
                    [
                        f"{moment:,}",
                        *format_measures(
                            [find_row(seed["rows"], moment) for seed in seeds[OWN]], {"Q": "q"} | directions
                        ),
                    ]
                    for moment in moments
                ],
            ),
        ]
    )


def find_row(rows: Sequence[Row], timestep: float) -> Row:
    """Return the first row from a timestep on, or the last row."""
    return next((row for row in rows if (row["timestep"] or 0) >= timestep), rows[-1])


def format_measures(rows: Sequence[Row], columns: Mapping[str, str]) -> list[str]:
    """Write a cell for each column, with one row of measures for each seed."""
    return [format_seeds(row[key] for row in rows) for key in columns.values()]


def format_changes(title: str, measured: Mapping[str, Any]) -> str:
    """Write a table with a row for each change to the config with few updates."""
    rows = [
        [
            name,
            str(outcomes[0]["updates_per_copy"]),
            format_seeds(outcome["largest_q"] for outcome in outcomes),
            format_solved(outcomes),
        ]
        for name, outcomes in measured.items()
    ]
    return f"## {title}\n\n{format_table(['change', 'updates per copy', 'Q at most', 'solved'], rows)}"


def format_default(measured: Mapping[str, Any]) -> str:
    """Write the tables of changes to the default config: when they solve, and their largest Q-values."""
    rewards = (OWN, TIMES_10, TIMES_01)
    solved, values = [], []
    for name, sides in measured.items():
        solved.append([name, *(format_solved(sides[reward]) for reward in rewards)])
        values.append([name, *(format_seeds(seed["largest_q"] for seed in sides[reward]) for reward in rewards)])
    header = ["change", *rewards]
    blocks = ["## The default config with one change", "Solved:", format_table(header, solved)]
    return "\n\n".join([*blocks, "Q at most:", format_table(header, values)])


def format_graded(measured: Mapping[str, Any]) -> str:
    """Write the tables of the graded end: the value of balancing, and the last steps of episodes."""
    values, steps = [], []
    for text, sides in measured.items():
        gamma = float(text)
        cells = [text]
        for name, is_terminal in (("few updates", False), ("few updates, limit terminal", True)):
            cells.append(f"{compute_balancing_value(gamma, is_terminal):.3f}")
            cells.append(" / ".join(f"{outcome['q']:.3f}" for outcome in sides[name]))
        values.append(cells)
        columns = ("default, time observed", "default", "few updates")
        steps.append([text, f"{compute_best_step(gamma):.0f}", *(format_steps(sides[name]) for name in columns)])
    header = ["gamma", "bootstrapped: value", "bootstrapped: Q", "terminal: value", "terminal: Q"]
    return "\n\n".join(
        [
            "## Graded end",
            "The value of balancing, and Q at the end of training, with a bootstrapped and a terminal time limit:",
            format_table(header, values),
            "The step t at which episodes end:",
            format_table(["gamma", "best t", "default, time observed", "default", "few updates"], steps),
        ]
    )


def compute_best_step(gamma: float, midpoint: int = 99) -> float:
    """Return the step t, below the limit, with the largest ``gamma**t * (t - midpoint)``."""
    return min(midpoint + 1 / math.log(1 / gamma), LIMIT - 1)


def compute_balancing_value(gamma: float, is_terminal: bool) -> float:
    """Return the value V of balancing, if all states look the same and each episode is paid 1 at the limit.

    One transition in LIMIT is paid: V = 1 / LIMIT + gamma V with a bootstrapped limit. A terminal one has no gamma V.
    """
    return 1 / LIMIT / (1 - gamma * (1 - 1 / LIMIT if is_terminal else 1))


def format_steps(outcomes: Sequence[Outcome]) -> str:
    """Write the quantiles of each seed."""
    return " / ".join("{:.0f} ({:.0f} to {:.0f})".format(*outcome["t"]) for outcome in outcomes)


def draw_figure(measured: Mapping[str, Any]) -> Figure:
    """Draw Q-values over their bound, and the share of the more frequent action; each reward with its first seed."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    entries: list[tuple[Any, str]] = []
    for (name, reward), colour in zip(measured.items(), distinct_colours(len(measured)), strict=True):
        rows = reward["seeds"][0]["rows"]
        timesteps = [row["timestep"] for row in rows]
        (line,) = left.plot(timesteps, [row["q"] / reward["bound"] for row in rows], color=colour)
        right.plot(timesteps, [row["same_action"] for row in rows], color=colour)
        entries.append((line, name.replace("`", "")))
    left.set_yscale("symlog", linthresh=0.1)
    left.axhline(1, color=INK, linestyle=(0, (5, 3)), linewidth=1.2)
    for axes, title in ((left, "Q-value / highest true value"), (right, "share of the more frequent action")):
        style_axes(axes)
        axes.set_title(title, loc="left", color=INK)
        axes.set_xlabel("timesteps", color=INK)
    add_legend(figure, entries)
    return figure


PARTS: dict[str, tuple[Callable[[Trainer], dict[str, Any]], Callable[[Mapping[str, Any]], str]]] = {
    "rewards": (measure_rewards, format_rewards),
    "changes": (measure_changes, partial(format_changes, "Few updates with one change, own reward")),
    "steps": (
        measure_steps,
        partial(format_changes, "From few updates towards the default, own reward"),
    ),
    "default": (measure_default, format_default),
    "graded": (measure_graded, format_graded),
}


if __name__ == "__main__":
    main()
