"""An experiment file to the directory of its runs, all trained and evaluated; again, to what is left of them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from toolkit.config.load import remember_trusted_code
from toolkit.config.schema import parse
from toolkit.config.yaml_document import Document
from toolkit.evaluation.evaluate import evaluate
from toolkit.experiments.config import Plan
from toolkit.experiments.launcher import Job
from toolkit.experiments.status import EVALUATION, FILE, Standing, evaluation_text, has_begun, has_ended, runs_in
from toolkit.experiments.variants import PlannedRun
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import dry_run, resume, train
from toolkit.utils.errors import ConfigError
from toolkit.utils.files import claimed, write_text
from toolkit.utils.signals import InterruptedTraining, SignalGuard

DEFAULT_ROOT = Path("experiments")


@dataclass
class Experiment:
    """An experiment's directory and what was done in it.

    :ivar failed: why runs have failed, by name
    :ivar stopped_by: the signal that ended the work early, if one did
    """

    plan: Plan
    directory: Path
    failed: dict[str, str] = field(default_factory=dict)
    stopped_by: int | None = None


class Display(Protocol):
    """Shows how an experiment goes."""

    def begin(self, experiment: Experiment, left: Sequence[PlannedRun]) -> None:
        """Say which runs are left."""

    def ended(self, run: PlannedRun, error: str | None) -> None:
        """Say that one has ended."""

    def close(self) -> None:
        """End."""


def run_experiment(plan: Plan, out: Path | None = None, display: Display | None = None) -> Experiment:
    """Train and evaluate what is left of an experiment's runs; those that were stopped or have failed go on exactly.

    Everything is built once for each variant before anything is written, so that bad input leaves nothing behind.
    Ctrl-C and SIGTERM stop the runs where they can be saved; a second one stops them at once.

    :param out: the experiment's directory; by default ``experiments/<name>``
    :raises ConfigError: if something in a variant's config cannot be built, or does not fit together
    :raises RunError: if the directory is of something else, another process works in it, or it cannot be written to
    :raises ToolkitError: if there is nowhere to run
    """
    directory = DEFAULT_ROOT / plan.name if out is None else out
    experiment = Experiment(plan, directory)
    with claimed(directory, "trains in it"):
        left = _left(plan, directory)
        _rehearse(plan, left)
        write_text(directory / FILE, plan.text)
        if display:
            display.begin(experiment, left)
        try:
            _launch(experiment, left, display)
        finally:
            if display:
                display.close()
    return experiment


def _left(plan: Plan, directory: Path) -> list[PlannedRun]:
    """Return the runs that are not done.

    :raises RunError: if the directory is of something else
    """
    runs = plan.runs()
    begun = runs_in(directory, {run.name: run for run in runs}, plan.file, plan.text)
    episodes = plan.evaluation_episodes
    return [run for run in runs if run.name not in begun or not Standing.of(directory / run.name).is_done(episodes)]


def _launch(experiment: Experiment, left: Sequence[PlannedRun], display: Display | None) -> None:
    planned = {run.name: run for run in left}
    jobs = [_job(experiment, run) for run in left]
    launched = experiment.plan.launcher.launch(jobs)
    try:
        with SignalGuard(put_off=False).installed(), closing(launched):
            for ended in launched:
                if ended.error is not None:
                    experiment.failed[ended.job.name] = ended.error
                if display:
                    display.ended(planned[ended.job.name], ended.error)
    except (KeyboardInterrupt, InterruptedTraining) as error:
        experiment.stopped_by = getattr(error, "signal", signal.SIGINT)


def _job(experiment: Experiment, run: PlannedRun) -> Job:
    remember_trusted_code(run.config)  # it may be trained on another machine, and opened here
    arguments = {"config": run.config.to_document().data, "evaluation_episodes": experiment.plan.evaluation_episodes}
    return Job(run.name, experiment.directory / run.name, run_job, arguments)


def _rehearse(plan: Plan, runs: Sequence[PlannedRun]) -> None:
    """Build what each variant needs once.

    :raises ConfigError: with everything that cannot be built
    """
    first = {run.variant.name: run for run in reversed(runs)}
    for run in reversed(first.values()):
        try:
            dry_run(run.config)
        except ConfigError as error:
            plan.findings.add(run.variant.name, run.variant.laid, error.problems)
    plan.findings.refuse()


def run_job(directory: Path, config: dict[str, Any], evaluation_episodes: int) -> None:
    """Train a run to its end and evaluate it, from wherever it stands: the job of one run.

    :param config: the run's, as plain data
    :raises KeyboardInterrupt: if training was stopped, after it was saved
    :raises ToolkitError: if it fails
    """
    parsed, problems = parse(Document(config))
    if parsed is None or problems:
        raise ConfigError(problems)
    run = RunDirectory(directory, parsed)
    if not has_begun(directory, parsed):
        run = train(parsed, directory)
    elif not has_ended(directory):
        resume(run)
    if run.stopped_by is not None:
        raise KeyboardInterrupt
    if Standing.of(directory).is_done(evaluation_episodes):
        return
    write_text(directory / EVALUATION, evaluation_text(directory, evaluate(run, evaluation_episodes)))
