"""Search settings for configs/cartpole_ddqn.yaml: random candidates, the better ones tried on ever more seeds.

    python benchmarks/search.py [--near] [--candidates 40] [--rounds 2 6 20] [--seed 0] [--results DIR]

Each round trains every candidate left on so many seeds and keeps a quarter, at least 4. A training that is not solved
in the config's timesteps, or whose policy then has a greedy mean under 195 over 100 episodes, counts three times the
CPU seconds it took. Seeds 1000, 1001, ... are for this search alone. The first candidate is the config as it was then.
`--near` searches around what the wide search found, tries what looked good by then on the most seeds as well, and
writes `search_near`.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from report import PROJECT, options, progress, table, write

import toolkit

CONFIG = PROJECT / "configs" / "cartpole_ddqn.yaml"
FIRST_SEED = 1_000
PARAMS = "algorithm.params."
SPACE: dict[str, list[Any]] = {
    "env.n_envs": [16, 24, 32, 48, 64],
    "algorithm.policy_params.net_arch": [[64, 64], [128, 128], [256, 128]],
    PARAMS + "batch_size": [32, 64, 128],
    PARAMS + "gamma": [0.96, 0.97, 0.98, 0.99],
    PARAMS + "n_steps": [1, 3, 5],
    PARAMS + "gradient_steps": [1, 1, 2],
    PARAMS + "target_update_interval": [250, 500, 1000],
    PARAMS + "exploration_fraction": [0.03, 0.05, 0.08],
    PARAMS + "exploration_final_eps": [0.0, 0.005, 0.01],
    PARAMS + "learning_starts": [250, 500, 1000],
    PARAMS + "learning_rate.params.start": [7e-4, 1e-3, 1.5e-3, 2e-3, 3e-3],
    PARAMS + "learning_rate.params.end": [2e-5, 5e-5, 1e-4, 2e-4],
    PARAMS + "learning_rate.params.end_fraction": [0.15, 0.2, 0.3, 0.4],
}

NEAR = SPACE | {
    "env.n_envs": [32, 40, 48],
    "algorithm.policy_params.net_arch": [[128, 128], [256, 128]],
    PARAMS + "batch_size": [64, 128],
    PARAMS + "gamma": [0.97, 0.98, 0.99],
    PARAMS + "n_steps": [1],
    PARAMS + "gradient_steps": [1],
    PARAMS + "target_update_interval": [500, 1000, 2000],
    PARAMS + "exploration_fraction": [0.05, 0.08],
    PARAMS + "exploration_final_eps": [0.0, 0.005],
    PARAMS + "learning_starts": [500, 1000],
    PARAMS + "learning_rate.params.start": [7e-4, 1e-3, 1.5e-3],
    PARAMS + "learning_rate.params.end": [5e-5, 1e-4],
    PARAMS + "learning_rate.params.end_fraction": [0.2, 0.3, 0.4],
}

BEST_NEAR: dict[str, Any] = {
    "env.n_envs": 48,
    "algorithm.policy_params.net_arch": [256, 128],
    PARAMS + "batch_size": 64,
    PARAMS + "gamma": 0.97,
    PARAMS + "n_steps": 1,
    PARAMS + "gradient_steps": 1,
    PARAMS + "target_update_interval": 500,
    PARAMS + "exploration_fraction": 0.05,
    PARAMS + "exploration_final_eps": 0.005,
    PARAMS + "learning_starts": 500,
    PARAMS + "learning_rate.params.start": 1e-3,
    PARAMS + "learning_rate.params.end": 1e-4,
    PARAMS + "learning_rate.params.end_fraction": 0.2,
}
BY_HAND = [
    BEST_NEAR | {PARAMS + "learning_rate.params.end": 5e-5},
    BEST_NEAR | {PARAMS + "learning_rate.params.end": 5e-5, PARAMS + "batch_size": 128},
    BEST_NEAR | {PARAMS + "batch_size": 256},
]

Candidate = dict[str, Any]


def main() -> None:
    """Search, and write down every trial."""
    parser = options(__doc__, repeats=None)
    parser.add_argument("--near", action="store_true", help="search around what the wide search found")
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--rounds", type=int, nargs="+", default=[2, 6, 20], metavar="SEEDS")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of candidates")
    parser.add_argument("--timesteps", type=int, default=None, help="at most so many a training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    space = NEAR if arguments.near else SPACE
    choice = random.Random(arguments.seed)  # noqa: S311 - no secret
    candidates: list[Candidate] = [{}]
    candidates += [{key: choice.choice(values) for key, values in space.items()} for _ in range(arguments.candidates)]
    trials: list[list[dict[str, Any]]] = [[] for _ in candidates]
    left = [*range(len(candidates))]
    for number, seeds in enumerate(arguments.rounds):
        if number:
            left = left[: max(4, len(left) // 4)]
        for index in left:
            for seed in range(FIRST_SEED + len(trials[index]), FIRST_SEED + seeds):
                trials[index].append(trial(candidates[index], seed, arguments.timesteps))
            progress(f"round {number + 1}, {candidates[index]}: {score(trials[index]):.2f}")
        left.sort(key=lambda index: score(trials[index]))
    for candidate in BY_HAND if arguments.near else []:
        candidates.append(candidate)
        seeds = range(FIRST_SEED, FIRST_SEED + arguments.rounds[-1])
        trials.append([trial(candidate, seed, arguments.timesteps) for seed in seeds])
    measured = [{"settings": candidates[index], "trials": trials[index]} for index in range(len(candidates))]
    write("search_near" if arguments.near else "search", __doc__, page(measured), measured, arguments)


def trial(candidate: Candidate, seed: int, timesteps: int | None) -> dict[str, Any]:
    """Train once; return how it went."""
    shortened = {} if timesteps is None else {"timesteps": timesteps}
    config = toolkit.load_config(CONFIG, {**candidate, **shortened, "seed": seed})
    kept = tuple(callback for callback in config.callbacks if callback.name != "record_video")
    with tempfile.TemporaryDirectory() as directory:
        start = time.process_time()
        run = toolkit.train(config.model_copy(update={"callbacks": kept}), Path(directory) / "run")
        seconds = time.process_time() - start
        success = (run.result or {})["success"]
        greedy = toolkit.evaluate(run).mean_return if success["solved"] else None
    return {"seed": seed, "timesteps": success["timestep"], "cpu_seconds": seconds, "greedy": greedy}


def is_good(one: dict[str, Any]) -> bool:
    """Say whether a trial was solved, and its policy is good afterwards."""
    return one["greedy"] is not None and one["greedy"] >= 195


def score(trials: list[dict[str, Any]]) -> float:
    """Return the mean CPU seconds of trials, the bad ones counted three times: the less, the better."""
    return statistics.mean(one["cpu_seconds"] * (1 if is_good(one) else 3) for one in trials)


def page(measured: list[dict[str, Any]]) -> str:
    """Write the table, those tried on most seeds first and among them the best."""
    ranked = sorted(measured, key=lambda one: (-len(one["trials"]), score(one["trials"])))
    rows = []
    for one in ranked:
        trials, good = one["trials"], [trial for trial in one["trials"] if is_good(trial)]
        steps = f"{statistics.median(trial['timesteps'] for trial in good):,.0f}" if good else "-"
        settings = ", ".join(f"{key.removeprefix(PARAMS)} {value}" for key, value in one["settings"].items())
        median = f"{statistics.median(trial['cpu_seconds'] for trial in trials):.2f}"
        rows.append([f"{len(good)} of {len(trials)}", median, f"{score(trials):.2f}", steps, settings or "as it was"])
    return table(["solved and good", "CPU s, median", "score", "timesteps, median", "settings"], rows)


if __name__ == "__main__":
    main()
