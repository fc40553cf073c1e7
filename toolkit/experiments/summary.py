"""Text about an experiment's results: one line for a run, one for each variant, and the next commands."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolkit.evaluation.summary import format_command, format_next_commands
from toolkit.experiments.runner import Experiment
from toolkit.experiments.status import RunStatus
from toolkit.experiments.variants import PlannedRun
from toolkit.utils.data import compute_mean
from toolkit.utils.errors import make_printable
from toolkit.utils.text import abbreviate, format_number, format_table

_MAX_FAILURES = 20
_HEADER = ("variant", "runs", "solved", "median timesteps to success", "mean greedy return")


def format_run_end(experiment: Path, run: PlannedRun, error: str | None) -> str:
    """Return a line about a run that has ended.

    :param experiment: directory of the experiment
    :param error: why the run failed, if it did
    """
    if error is not None:
        return f"{run.name}: failed: {make_printable(error)}"
    run_status = RunStatus.read(experiment / run.name)
    status, timesteps = run_status.result.get("status"), run_status.result.get("timesteps", 0)
    greedy_return = run_status.evaluation.get("mean_return", math.nan)
    line = f"{run.name}: {status} after {timesteps:,} timesteps, mean greedy return {format_number(greedy_return, 1)}"
    diagnosis = run_status.result.get("diagnosis")
    return f"{line}; {diagnosis}" if diagnosis else line


def format_summary(experiment: Experiment) -> str:
    """Return the results of an experiment, a line for each variant, its directory, and the next commands."""
    plan, directory = experiment.plan, experiment.directory
    statuses = {run.name: RunStatus.read(directory / run.name) for run in plan.runs()}
    rows = [
        _format_variant(variant.name, [statuses[f"{variant.name}/seed-{seed}"] for seed in plan.seeds])
        for variant in plan.variants
    ]
    lines = [_format_verdict(experiment, statuses), *format_table(_HEADER, rows, "<>")]
    lines += [*format_failures(experiment), f"  experiment  {directory}"]
    if logs := sorted(directory.glob("*/log-*.txt")):
        lines.append(f"  logs        {', '.join(abbreviate([*map(str, logs)], 1))}")
    commands = [format_command(*sys.argv[1:])] if experiment.stopped_by or experiment.failed else []
    return "\n".join([*lines, *format_next_commands([*commands, format_command("report", str(directory))])])


def format_failures(experiment: Experiment) -> list[str]:
    """Return a line for each failed run, at most twenty."""
    lines = [f"failed: {name}: {make_printable(error)}" for name, error in experiment.failed.items()]
    return abbreviate(lines, _MAX_FAILURES, "more failed")


def _format_verdict(experiment: Experiment, statuses: Mapping[str, RunStatus]) -> str:
    episodes = experiment.plan.evaluation_episodes
    n_done = sum(status.is_done(episodes) for name, status in statuses.items() if name not in experiment.failed)
    word = "interrupted" if experiment.stopped_by else "failed" if experiment.failed else "done"
    return f"{word}: {n_done:,} of {len(statuses):,} runs trained and evaluated"


def _format_variant(variant: str, statuses: Sequence[RunStatus]) -> tuple[str, ...]:
    """Return the row of a variant."""
    ended = [status for status in statuses if status.has_ended]
    returns = [status.evaluation["mean_return"] for status in ended if status.evaluation]
    successes = [success for status in ended if (success := status.result.get("success"))]
    solved_at = [success["timestep"] for success in successes if success.get("solved") and success.get("timestep")]
    return (
        variant,
        f"{len(ended)} of {len(statuses)}",
        f"{len(solved_at)}" if successes else "-",
        _format_median(solved_at, len(successes)),
        format_number(compute_mean(returns), 1) if returns else "-",
    )


def _format_median(timesteps: Sequence[int], n_runs: int) -> str:
    """Return the median timesteps to success of ``n_runs`` runs; one without success counts as infinite."""
    if not n_runs:
        return "-"
    median = statistics.median_low([*timesteps, *[math.inf] * (n_runs - len(timesteps))])
    return f"{median:,.0f}" if median < math.inf else "not reached"
