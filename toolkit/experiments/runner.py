"""Train and evaluate the runs of an experiment in its directory, or the ones that are not done yet."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from toolkit.config.load import remember_trusted_code
from toolkit.config.schema import parse_config
from toolkit.config.yaml_document import Document
from toolkit.evaluation.evaluate import evaluate
from toolkit.experiments.config import ExperimentPlan
from toolkit.experiments.launcher import Job
from toolkit.experiments.status import (
    EVALUATION_FILE,
    EXPERIMENT_FILE,
    RunStatus,
    find_started_runs,
    serialize_evaluation,
)
from toolkit.experiments.variants import PlannedRun, VariantProblems
from toolkit.training.checks import find_config_warnings
from toolkit.training.trainer import dry_run, train_or_resume
from toolkit.utils.errors import ConfigError
from toolkit.utils.files import claim_directory, write_text
from toolkit.utils.signals import InterruptedTraining, SignalGuard

DEFAULT_ROOT = Path("experiments")


@dataclass
class Experiment:
    """The directory of an experiment and how its runs went.

    :ivar failed: why runs have failed, by name
    :ivar stopped_by: number of the signal that ended the experiment early; ``None`` if none did
    """

    plan: ExperimentPlan
    directory: Path
    failed: dict[str, str] = field(default_factory=dict)
    stopped_by: int | None = None


class ExperimentDisplay(Protocol):
    """Shows the progress of an experiment."""

    def begin(self, experiment: Experiment, unfinished: Sequence[PlannedRun]) -> None:
        """Begin to show an experiment; ``unfinished`` are the runs that are about to be launched."""

    def end_run(self, run: PlannedRun, error: str | None) -> None:
        """Show that a run has ended; ``error`` says why it failed, if it did."""

    def close(self) -> None:
        """End the display."""


def run_experiment(
    plan: ExperimentPlan, out: Path | None = None, display: ExperimentDisplay | None = None
) -> Experiment:
    """Train and evaluate the runs of an experiment that are not done. Interrupted and failed runs resume exactly.

    Each variant is built once before anything is written, so that an invalid config leaves no files behind. Ctrl-C
    and SIGTERM stop the runs where they can be saved. A second signal stops them at once.

    :param out: directory of the experiment, by default ``experiments/<name>``
    :raises ConfigError: if a variant cannot be built
    :raises RunError: if the directory holds something else, another process uses it, or it cannot be written
    :raises ToolkitError: if the launcher has nowhere to run jobs
    """
    directory = DEFAULT_ROOT / plan.name if out is None else out
    experiment = Experiment(plan, directory)
    with claim_directory(directory, "trains in it"):
        unfinished = _find_unfinished_runs(plan, directory)
        dry_run_variants(unfinished, plan.problems, plan.launcher.is_local)
        write_text(directory / EXPERIMENT_FILE, plan.text)
        if display:
            display.begin(experiment, unfinished)
        try:
            _launch(experiment, unfinished, display)
        finally:
            if display:
                display.close()
    return experiment


def _find_unfinished_runs(plan: ExperimentPlan, directory: Path) -> list[PlannedRun]:
    """Return the runs that are not trained and evaluated.

    :raises RunError: if the directory holds something else
    """
    runs = plan.runs()
    started = find_started_runs(directory, {run.name: run for run in runs}, plan.file, plan.text)
    return [
        run
        for run in runs
        if run.name not in started or not RunStatus.read(directory / run.name).is_done(plan.evaluation_episodes)
    ]


def _launch(experiment: Experiment, runs: Sequence[PlannedRun], display: ExperimentDisplay | None) -> None:
    runs_by_name = {run.name: run for run in runs}
    launched = experiment.plan.launcher.launch([_make_job(experiment, run) for run in runs])
    try:
        with SignalGuard(defer_first=False).installed(), closing(launched):
            for ended in launched:
                if ended.error is not None:
                    experiment.failed[ended.job.name] = ended.error
                if display:
                    display.end_run(runs_by_name[ended.job.name], ended.error)
    except (KeyboardInterrupt, InterruptedTraining) as error:
        experiment.stopped_by = getattr(error, "signal", signal.SIGINT)


def _make_job(experiment: Experiment, run: PlannedRun) -> Job:
    remember_trusted_code(run.config)  # another machine may train the run, and this one opens it
    arguments = {"config": run.config.to_document().data, "evaluation_episodes": experiment.plan.evaluation_episodes}
    return Job(run.name, experiment.directory / run.name, run_job, arguments)


def dry_run_variants(runs: Iterable[PlannedRun], problems: VariantProblems, is_local: bool) -> None:
    """Build everything once for the first run of each variant, and log what its training would ignore.

    :param problems: of the same variants; collects theirs
    :param is_local: whether they train on this machine, which then needs the config's device
    :raises ConfigError: with the problems of all variants
    """
    warnings = problems.copy_empty()
    first_runs: dict[str, PlannedRun] = {}
    for run in runs:
        first_runs.setdefault(run.variant.name, run)
    for run in first_runs.values():
        try:
            dry_run(run.config, is_local)
            warnings.add(run.variant.name, run.variant.overrides, find_config_warnings(run.config))
        except ConfigError as error:
            problems.add(run.variant.name, run.variant.overrides, error.problems)
    problems.raise_if_any()
    warnings.log()


def run_job(directory: Path, config: dict[str, Any], evaluation_episodes: int) -> None:
    """Train a run to its end, or resume it, and evaluate it: the job of a run.

    :param config: the config of the run as plain data
    :raises KeyboardInterrupt: if a signal stopped training; the run is saved
    :raises ToolkitError: if the run fails
    """
    parsed, problems = parse_config(Document(config))
    if parsed is None or problems:
        raise ConfigError(problems)
    run = train_or_resume(parsed, directory, f"remove {directory} to train the run again")
    if run.stopped_by is not None:
        raise KeyboardInterrupt
    if not RunStatus.read(directory).is_done(evaluation_episodes):
        evaluation = evaluate(run, evaluation_episodes)
        write_text(directory / EVALUATION_FILE, serialize_evaluation(evaluation))
