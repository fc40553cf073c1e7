"""Write BENCHMARKS.md: targets, and what was measured, from the JSON files in `benchmarks/results`.

python benchmarks/summary.py
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from report import PROJECT, RESULTS, compute_ratios, format_machine, format_table

PAGE = PROJECT / "BENCHMARKS.md"
INTRODUCTION = """\
# Benchmarks

The toolkit meets {met} of {targets} targets. Figures are medians, and `2x` means twice as fast. The sides of a
comparison take turns in one run. Each figure links to its page, which says what exactly was measured, with minimum and
maximum. A JSON file beside that page has the raw numbers.
[What limits the speed](docs/explanation/speed.md) explains them."""

Measured = Any
"""What a benchmark measured: ``measured`` in its JSON file."""


@dataclass(frozen=True)
class Row:
    """A figure, and its target if it has one.

    :param figure: NaN if it was not measured
    :param is_bound: whether the figure is what could be reached at most by what does not exist, which meets no target
    """

    what: str
    figure: float
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = "x"
    is_bound: bool = False

    @property
    def target(self) -> str:
        """The target as text, or nothing."""
        limits = {"≥": self.at_least, "≤": self.at_most}
        return "".join(f"{bound} {limit:g}{self.unit}" for bound, limit in limits.items() if math.isfinite(limit))

    @property
    def is_met(self) -> bool:
        """Whether the figure meets the target, as far as it is written."""
        if math.isnan(self.figure) or self.is_bound:
            return False
        return self.at_least <= round(self.figure, count_digits(self.figure)) <= self.at_most

    def format(self, results: str, command: str) -> list[str]:
        """Write the cells of the row.

        :param results: name of the benchmark's files in `benchmarks/results`
        """
        if math.isnan(self.figure):
            return [self.what, self.target, "none yet", f"`{command}`"]
        figure = link(format_figure(self.figure, self.unit), results)
        if self.is_bound:
            figure = f"at most {figure}, not built"
        return [self.what, self.target, figure if self.is_met else f"{figure}, **missed**", f"`{command}`"]


@dataclass(frozen=True)
class Loss:
    """A figure that is better elsewhere, or without one of the toolkit's features."""

    what: str
    beside: str
    figure: float
    reason: str
    unit: str = "x"

    def format(self, results: str) -> list[str]:
        """Write the cells of the row.

        :param results: name of the benchmark's files in `benchmarks/results`
        """
        return [self.what, self.beside, link(format_figure(self.figure, self.unit), results), self.reason]


def ratio(theirs: Iterable[float], ours: Iterable[float]) -> float:
    """Return the median, over all repeats, of their time divided by ours."""
    return median(compute_ratios(theirs, ours))


def first(repeats: Iterable[Sequence[float]]) -> list[float]:
    """Return the first number of each repeat: the seconds of a command, or the processor's time."""
    return [numbers[0] for numbers in repeats]


def list_solve_rows(measured: Measured) -> Iterator[Row]:
    """List how soon CartPole is solved."""
    outcomes = measured["seeds"].values()
    ours, theirs = ([seed[side]["seconds"] or math.inf for seed in outcomes] for side in ("toolkit", "SB3 PPO"))
    n_solved = sum(map(math.isfinite, ours))
    yield Row(f"`cartpole_fast.yaml`: solved seeds of {len(ours)}", n_solved, at_least=len(ours), unit="")
    yield Row("`cartpole_fast.yaml`: median seed", median(ours), at_most=1, unit=" s")
    yield Row("`cartpole_fast.yaml`: slowest seed", max(ours), at_most=1, unit=" s")
    yield Row(
        "`cartpole_fast.yaml`: faster than SB3's PPO with RL Zoo's settings",
        median(theirs) / median(ours),
        at_least=10,
    )


def list_peer_rows(measured: Measured) -> Iterator[Row]:
    """List how soon CartPole is solved beside a peer that has a Python environment of its own."""
    outcomes = measured["seeds"].values()
    ours, theirs = (
        median(seed[side]["seconds"] or math.inf for seed in outcomes) for side in ("toolkit", "Tianshou DQN")
    )
    yield Row(
        f"`cartpole_few_updates.yaml`: faster than Tianshou's DQN, {len(outcomes)} seeds", theirs / ours, at_least=3
    )


def list_classic_rows(what: str, measured: Measured) -> Iterator[Row]:
    """List how much sooner than by the best peer an environment is solved."""
    if not measured:
        yield Row(what, math.nan, at_least=3)
        return
    seeds = measured["seeds"].values()
    in_turns = {side: [seed[side]["seconds"] for seed in seeds] for side in next(iter(seeds))}
    ratios = []
    for sides in (in_turns, measured["experiment"]):
        ours, *peers = sides.values()
        ratios += [compare_medians(ours, theirs) for theirs in peers]
    yield Row(f"{what}, {len(seeds)} seeds", min(ratios), at_least=3)


def compare_medians(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float:
    """Return their median seconds divided by ours; None is not solved."""
    return median(each or math.inf for each in theirs) / median(each or math.inf for each in ours)


def list_step_rows(measured: Measured) -> Iterator[Row]:
    """List the time of DoubleDQN's training step."""

    def compare(row: str, side: str, parts: slice = slice(2)) -> float:
        names = ("SB3 DQN", side)
        theirs, ours = ([sum(step[parts]) for step in measured[row][name]["milliseconds"]] for name in names)
        return ratio(theirs, ours)

    rollout, update = slice(1), slice(1, 2)
    yield Row("DoubleDQN, 16x16 network", compare("a", "eager"), at_least=2)
    yield Row("DoubleDQN, 16x16 network, compiled", compare("a", "compiled"), at_least=5)
    yield Row("DoubleDQN, RL Zoo's 256x256 network", compare("b", "eager"), at_least=1.6)
    yield Row("DoubleDQN, RL Zoo's 256x256 network, compiled", compare("b", "compiled"), at_least=1.6)
    acting = compare("c", "eager, on the toolkit's environments", rollout)
    yield Row("DoubleDQN, 16 environments, acting alone", acting, at_least=2)
    yield Row("DoubleDQN, images, updates alone", compare("d", "eager", update), at_least=1)
    yield Row("DoubleDQN, 5 passes a step, compiled", compare("e", "compiled"), at_least=4)


def list_accelerate_rows(measured: Measured) -> Iterator[Row]:
    """List the time of a training step of Stable-Baselines3's algorithms, with `accelerate` and without."""
    targets = {"PPO": 2.0, "SAC": 1.5, "TD3": 1.5, "QRDQN": 2.0}
    for name in dict.fromkeys((*targets, *measured)):
        figure = ratio(measured[name]["SB3"], measured[name]["accelerated"]) if name in measured else math.nan
        yield Row(f"{name}, default settings", figure, at_least=targets.get(name, 1.0))
    for name in ("SAC", "TD3"):
        bound = math.nan
        if name in measured:
            parts = (measured[name][part] for part in ("matrix products", "Adam", "collecting"))
            bound = median(measured[name]["SB3"]) / sum(map(median, parts))
        yield Row(f"{name}, default settings, compiled", bound, at_least=2.5, is_bound=True)


def list_vector_rows(measured: Measured) -> Iterator[Row]:
    """List how fast environments step in one call."""
    for size, sides in measured.items():
        if int(size) >= 16:
            yield Row(f"{int(size):,} CartPoles", ratio(sides["dummy"], sides["vector"]))


def list_envpool_rows(measured: Measured) -> Iterator[Row]:
    """List how much faster environments are in EnvPool's threads."""
    for size, sides in measured.get("seconds", {}).items():
        yield Row(f"{int(size):,} HalfCheetahs, `vec_env: envpool`", ratio(sides["dummy"], sides["envpool"]))


def list_growth_rows(measured: Measured) -> Iterator[Row]:
    """List the worst size of each quantity that grows."""
    units = {"environments": "environments", "width": "units a layer", "buffer": "transitions in the replay buffer"}
    for quantity, sizes in measured.items():
        ratios = [ratio(sides["SB3 DQN"], sides["DoubleDQN"]) for sides in sizes.values()]
        ends = " to ".join(f"{int(size):,}" for size in (min(sizes, key=int), max(sizes, key=int)))
        yield Row(f"{ends} {units[quantity]}, worst of {len(sizes)} sizes", min(ratios), at_least=1)
        largest = sizes[max(sizes, key=int)]
        if "DoubleDQN, vector" in largest:
            figure = ratio(largest["SB3 DQN"], largest["DoubleDQN, vector"])
            yield Row(f"{int(max(sizes, key=int)):,} environments, `vec_env: vector`", figure)
        if "DoubleDQN, once" in largest:
            usual, once = (largest["memory"][side]["bytes"] for side in ("DoubleDQN", "DoubleDQN, once"))
            yield Row(f"bytes of a transition, {usual} without `optimize_memory_usage`", once, unit="")


def list_command_rows(measured: Measured) -> Iterator[Row]:
    """List the seconds of commands from start to exit."""
    seconds = {command: first(repeats) for command, repeats in measured.items()}
    yield Row("`toolkit --help`", median(seconds["toolkit --help"]), at_most=0.5, unit=" s")
    check = ratio(seconds["toolkit check"], seconds["python -c 'import stable_baselines3'"])
    yield Row("`toolkit check`, as a multiple of `import stable_baselines3`", check, at_most=1.3)
    train, learning = median(seconds["toolkit train"]), median(seconds["learning"])
    rest = train - learning - 2 * median(seconds["python -c 'import torch'"])
    yield Row("`toolkit train configs/cartpole_ddqn.yaml` with two videos", train, unit=" s")
    yield Row(f"the same without {learning:.1f} s of learning and two `import torch`", rest, at_most=1, unit=" s")


def list_feature_rows(measured: Measured) -> Iterator[Row]:
    """List what callbacks and loggers add to a training step."""
    for n_envs, sides in measured.items():
        percent = compute_added_percent(sides, "success + progress + logging", "learn(), few updates")
        yield Row(f"success, progress and logs, `n_envs: {n_envs}`: added time", percent, at_most=5, unit=" %")
    n_envs, sides = max(measured.items(), key=lambda item: int(item[0]))
    percent = compute_added_percent(sides, "log_rewards, two wrappers", "toolkit.train, two wrappers")
    yield Row(f"log_rewards, `n_envs: {n_envs}`: added time", percent, at_most=2, unit=" %")


def compute_added_percent(sides: Measured, feature: str, beside: str) -> float:
    """Return the median of what a feature adds to a whole training step."""
    repeats = zip(*(first(sides[name]) for name in (feature, beside, "learn()")), strict=True)
    return median(100 * (trained - bare) / whole for trained, bare, whole in repeats)


def list_snapshot_rows(measured: Measured) -> Iterator[Row]:
    """List how long training stops for a snapshot."""
    name, times = [*measured.items()][-1]
    yield Row(f"writing {times['megabytes']:.0f} MB: {name}", median(times["writing"]), unit=" s")


def list_kill_rows(measured: Measured) -> Iterator[Row]:
    """List how many killed runs end as if they were not."""
    kills, survived = (sum(case[key] for case in measured.values()) for key in ("kills", "survived"))
    yield Row(f"identical results after {kills} kills and resumes", survived, at_least=kills, unit="")


def list_experiment_rows(measured: Measured) -> Iterator[Row]:
    """List the time of experiments, as a share of the time of their runs one after another."""
    many, one = (
        ratio(sides["experiment"], sides["one after another"]) for sides in (measured["many"], measured["one"])
    )
    seconds = median(measured["one"]["one after another"])
    yield Row("`toolkit experiment` on 2 cores, as a multiple of `train` run by run", many, at_most=0.6)
    yield Row(f"`toolkit experiment`, one run of {seconds:.0f} s, as a multiple of `train`", one, at_most=1.05)


def list_many_runs_rows(measured: Measured) -> Iterator[Row]:
    """List what an experiment of many runs takes for each beyond the run itself, where it is measured repeatedly."""
    what, figure = "`toolkit experiment`, short runs: added time a run", math.nan
    if measured:
        runs = min(int(name) for name in measured if name not in ("run", "1"))
        repeats = zip(measured[str(runs)], measured["1"], measured["run"], strict=True)
        figure = 1e3 * median([(many - one) / (runs - 1) - run for many, one, run in repeats])
    yield Row(what, figure, at_most=50, unit=" ms")


def list_launcher_rows(measured: Measured) -> Iterator[Row]:
    """List the time of an experiment on Ray."""
    yield Row("`launcher: ray`, as a multiple of `local`", ratio(measured["ray"], measured["local"]), at_most=1.1)


def list_report_rows(measured: Measured) -> Iterator[Row]:
    """List the seconds of the largest report."""
    runs, sizes = [*measured.items()][-1]
    yield Row(f"`toolkit report` on {int(runs):,} runs", median(first(sizes["seconds_and_mebibytes"])), unit=" s")


def list_vector_losses(measured: Measured) -> Iterator[Loss]:
    """List where stepping in one call loses."""
    one, most = measured["1"], measured["256"]
    reason = "one call on arrays of one row costs more than a step; it pays from 4 on"
    yield Loss("one CartPole, `vec_env: vector`", "`vec_env: dummy`", ratio(one["dummy"], one["vector"]), reason)
    alone = ratio(most["Gymnasium's alone"], most["vector"])
    reason = "reward wrapper, raw returns, episode records"
    yield Loss("256 CartPoles, `vec_env: vector`", "Gymnasium's own, bare", alone, reason)


def list_acting_losses(measured: Measured) -> Iterator[Loss]:
    """List where acting loses."""
    sides = ("SB3 DQN", "eager, on the toolkit's environments")
    theirs, ours = ([repeat["stepping the environments"] for repeat in measured[side]] for side in sides)
    reason = "each episode is recorded, so that it can resume"
    yield Loss("stepping 16 CartPoles one by one", "Stable-Baselines3", ratio(theirs, ours), reason)


def list_compile_losses(measured: Measured) -> Iterator[Loss]:
    """List what compiling costs."""
    compiled = measured["a"]["compiled"]
    warm_up = compiled["warm_up"] * median(map(sum, compiled["milliseconds"])) / 1e3
    reason = "PyTorch compiles; `compile: auto` does it from 50,000 updates on"
    yield Loss("compiled updates: start", "eager", compiled["start_seconds"] - warm_up, reason, " s more")


GROUPS: dict[str, dict[str, Callable[[Measured], Iterator[Row]]]] = {
    "Time until CartPole is solved": {"solve": list_solve_rows, "solve_peers": list_peer_rows},
    "Time until a classic is solved, beside the best of RL Zoo, CleanRL, SBX and Tianshou": {
        "solve_acrobot": partial(list_classic_rows, "Acrobot"),
        "solve_mountaincar": partial(list_classic_rows, "MountainCar"),
        "solve_lunarlander": partial(list_classic_rows, "LunarLander"),
    },
    "A training step, beside Stable-Baselines3": {
        "throughput": list_step_rows,
        "accelerate": list_accelerate_rows,
        "features": list_feature_rows,
    },
    "Vectorized environments, beside those stepped one by one": {
        "vector_envs": list_vector_rows,
        "envpool_steps": list_envpool_rows,
    },
    "Growth, beside Stable-Baselines3's DQN": {"growth": list_growth_rows},
    "Commands": {"process": list_command_rows},
    "Snapshots and resume": {"snapshot": list_snapshot_rows, "kill": list_kill_rows},
    "Experiments and reports": {
        "experiment": list_experiment_rows,
        "many_runs": list_many_runs_rows,
        "launchers": list_launcher_rows,
        "report_runs": list_report_rows,
    },
}
UNMEASURED = {
    f"solve_{task}": f"python benchmarks/solve_classics.py {task} --peers PYTHON"
    for task in ("mountaincar", "lunarlander")
}
"""Commands of results that are not there yet, where they are not the name of the results."""
LOSSES: dict[str, Callable[[Measured], Iterator[Loss]]] = {
    "vector_envs": list_vector_losses,
    "acting": list_acting_losses,
    "throughput": list_compile_losses,
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(format_page(), encoding="utf-8")


def format_page() -> str:
    """Write the page as Markdown."""
    names = dict.fromkeys(name for part in (*GROUPS.values(), LOSSES) for name in part)
    results = {name: read_results(name) for name in names}
    met, tables = [], []
    for heading, group in GROUPS.items():
        rows = [(name, row) for name, list_rows in group.items() for row in list_rows(results[name]["measured"])]
        met += [row.is_met for _, row in rows if row.target]
        cells = [row.format(name, results[name]["command"]) for name, row in rows]
        tables += [f"## {heading}", format_table(["what", "target", "measured", "command"], cells)]
    losses = [
        loss.format(name) for name, list_losses in LOSSES.items() for loss in list_losses(results[name]["measured"])
    ]
    tables += ["## Where the toolkit loses", format_table(["what", "beside", "measured", "reason"], losses)]
    return "\n\n".join([INTRODUCTION.format(met=sum(met), targets=len(met)), format_machines(results), *tables]) + "\n"


def read_results(name: str) -> dict[str, Any]:
    """Read the JSON file of a benchmark; one that was not run has measured nothing."""
    file = RESULTS / f"{name}.json"
    if not file.exists():
        return {"command": UNMEASURED.get(name, f"python benchmarks/{name}.py"), "measured": {}}
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return results


def format_machines(results: dict[str, Any]) -> str:
    """Write on which machine and when each benchmark ran."""
    machines = defaultdict(list)
    for name, result in results.items():
        if "machine" not in result:
            continue
        machines[format_machine(result["machine"] | {"torch_threads": None})].append((result["date"], name))
    lines = []
    for machine, runs in machines.items():
        dates = sorted({date for date, _ in runs})
        lines.append(
            f"- {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {machine}: {', '.join(name for _, name in runs)}"
        )
    return "\n".join(lines)


def link(text: str, results: str) -> str:
    """Write a link to the page of a benchmark."""
    return f"[{text}]({(RESULTS / results).relative_to(PROJECT).as_posix()}.md)"


def format_figure(figure: float, unit: str) -> str:
    """Write a figure with its unit."""
    return f"{figure:,.{count_digits(figure)}f}{unit}"


def count_digits(figure: float) -> int:
    """Return how many digits after the point are written."""
    return 0 if figure == int(figure) or figure >= 100 else 1 if figure >= 10 else 2


if __name__ == "__main__":
    main()
