"""The contents of a page about one run, before it is written as HTML or Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolkit.envs.action_count import ActionCount
from toolkit.reports import run_captions, run_figures
from toolkit.reports.captions import describe_criterion, list_stopped_runs
from toolkit.reports.figures import ReportFigure
from toolkit.reports.run_record import RunRecord, RunRecordReader
from toolkit.reports.tables import MISSING, Table
from toolkit.training import actions_csv, progress_csv
from toolkit.training.evaluations import RecordedEvaluation, group_by_label, read_evaluations
from toolkit.training.progress_csv import Series
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.errors import make_printable
from toolkit.utils.text import format_number

_EXPLORATION = ("rollout/exploration_rate", "train/learning_rate", "train/ent_coef", "train/std")
_HIDDEN = ("train/n_updates", "rollout/ep_rew_mean")  # the latter is the learning curve
_MAX_NAME_LENGTH = 60  # characters


@dataclass(frozen=True)
class RunSection:
    """A section of the page.

    :param figures: by their files, relative to the directory of the page
    """

    title: str
    figures: dict[str, ReportFigure]
    table: Table | None = None
    table_caption: str = ""


@dataclass(frozen=True)
class RunReport:
    """Everything on the page except its videos.

    :param facts: what the run is and what it reached
    """

    run: RunDirectory
    title: str
    headline: str
    notices: tuple[str, ...]
    facts: Table
    sections: tuple[RunSection, ...]


def is_run(directory: Path) -> bool:
    """Return whether a directory is that of one run."""
    return os.path.isfile(directory / "config.yaml")  # unlike the method of Path, it accepts any name


def build_run_report(directory: Path) -> RunReport:
    """Read a run directory, of a run that has ended or not. Nothing in it is executed.

    :raises RunError: if a file in it is damaged
    :raises ConfigError: if its config is not valid
    """
    record = RunRecordReader().read(directory)
    run = RunDirectory(directory, record.config)
    progress = progress_csv.read_progress(directory / progress_csv.NAME)
    actions = actions_csv.read_actions(directory / actions_csv.NAME)
    sections = [
        _build_learning(run, record, progress, actions),
        *_build_evaluations(group_by_label(read_evaluations(run))),
        _build_numbers(progress),
    ]
    diagnosis = [f"{record.diagnosis[:1].upper()}{record.diagnosis[1:]}."] if record.diagnosis else []
    return RunReport(
        run=run,
        title=make_printable(str(directory)),
        headline=run_captions.write_headline(record),
        notices=(*list_stopped_runs([record]), *diagnosis),
        facts=_make_facts(record),
        sections=tuple(section for section in sections if section.figures),
    )


def _make_facts(record: RunRecord) -> Table:
    config, criterion = record.config, record.criterion
    rows = [
        ("algorithm", f"{config.algorithm.name}, {config.algorithm.policy}"),
        ("environment", config.env.name),
        ("seed", f"{record.seed}"),
        ("status", record.status),
        ("timesteps", f"{record.timesteps:,} of {config.timesteps:,}"),
        ("training episodes", f"{record.episodes:,}"),
        ("seconds of training", MISSING if record.seconds is None else f"{record.seconds:,.1f}"),
        ("success is", describe_criterion(criterion) if criterion else MISSING),
        ("success at timestep", MISSING if record.success_timestep is None else f"{record.success_timestep:,}"),
        (f"return of the last {run_captions.get_window(record):,} training episodes", _format(record.training_return)),
        (f"return of {record.greedy_episodes or 'later'} greedy episodes", _format(record.greedy_return)),
    ]
    texts = [(make_printable(name), make_printable(value)) for name, value in rows if value != MISSING]
    return Table(("run", make_printable(config.name)), tuple(texts))


def _format(value: float | None) -> str:
    return MISSING if value is None else format_number(value, 1, ",")


def _build_learning(
    run: RunDirectory, record: RunRecord, progress: Mapping[str, Series], actions: list[ActionCount]
) -> RunSection:
    figures: list[ReportFigure] = []
    if record.episodes and len(record.curve_returns):
        caption = run_captions.describe_learning(record)
        figures.append(ReportFigure("learning", "Learning curve", caption, run_figures.draw_learning(run)))
    figures += _draw_values(progress)
    if record.reward_means:
        picture = run_figures.draw_reward_parts(run)
        figures.append(ReportFigure("rewards", "Parts of the return", run_captions.REWARDS_CAPTION, picture))
    if actions:
        caption = run_captions.describe_actions(actions)
        figures.append(ReportFigure("actions", "Actions", caption, run_figures.draw_actions(actions)))
    rows = [(make_printable(name), _format(mean)) for name, mean in record.reward_means.items()]
    table = Table(("part of the return", "mean"), tuple(rows)) if rows else None
    return RunSection("What was learned", _name_files(figures), table, run_captions.REWARDS_TABLE_CAPTION)


def _build_evaluations(evaluations: Mapping[str, list[RecordedEvaluation]]) -> Iterator[RunSection]:
    if not evaluations:
        return
    figure = ReportFigure(
        "evaluations",
        "Mean returns",
        run_captions.describe_evaluations(evaluations),
        run_figures.draw_evaluations(evaluations),
    )
    rows = []
    for label, items in evaluations.items():
        last, best = items[-1], max(items, key=lambda item: item.mean_return)
        cells = [f"{_format(item.mean_return)} at {item.timestep:,}" for item in (last, best)]
        success_rate = MISSING if last.success_rate is None else f"{100 * last.success_rate:.4g} %"
        rows.append((label, f"{len(items):,}", *cells, success_rate))
    header = ("evaluation", "times", "last mean at timestep", "best mean at timestep", "last success rate")
    caption = "From evaluations.csv, which also has the return and the length of every episode."
    yield RunSection("Evaluations during training", _name_files([figure]), Table(header, tuple(rows)), caption)


def _draw_values(progress: Mapping[str, Series]) -> Iterator[ReportFigure]:
    estimates, returns = progress.get("value/estimate"), progress.get("value/discounted_return")
    if estimates is not None and returns is not None:
        lines = {"value estimate": estimates, "discounted return": returns}
        caption = run_captions.describe_values(progress)
        yield ReportFigure("values", "Value estimates", caption, run_figures.draw_lines(lines, "discounted reward"))


def _build_numbers(progress: Mapping[str, Series]) -> RunSection:
    def is_loss(name: str) -> bool:
        return name.startswith("train/") and "loss" in name

    groups = {
        "exploration": ("Exploration and learning rate", _select(progress, _EXPLORATION.__contains__)),
        "parameters": (
            "Parameters of the environment",
            _select(progress, lambda name: name.startswith(("parameters/", "curriculum/"))),
        ),
        "losses": ("Losses", _select(progress, is_loss)),
        "updates": (
            "Other numbers of updates",
            _select(progress, lambda name: name.startswith("train/") and not is_loss(name)),
        ),
        "episodes": (
            "Means of the last episodes",
            _select(progress, lambda name: name.startswith(("rollout/", "info/"))),
        ),
    }
    shown: dict[str, Series] = {}
    figures = []
    for kind, (title, group) in groups.items():
        names = [name for name in group if name not in shown and name not in _HIDDEN]
        lines = {name: group[name] for name in names[: run_figures.MAX_PANELS]}
        shown |= lines
        if lines:
            caption = run_captions.describe_panels(kind, lines, len(names))
            panels = {make_printable(name, _MAX_NAME_LENGTH): series for name, series in lines.items()}
            figures.append(ReportFigure(kind, title, caption, run_figures.draw_panels(panels)))
    rows = [(make_printable(name), *_describe_series(series)) for name, series in shown.items()]
    table = Table(("number", "rows", "last", "lowest", "highest"), tuple(rows))
    return RunSection("What was logged", _name_files(figures), table, run_captions.TABLE_CAPTION)


def _describe_series(series: Series) -> list[str]:
    values = series.values
    return [f"{len(values):,}", *(f"{number:.6g}" for number in (values[-1], values.min(), values.max()))]


def _select(progress: Mapping[str, Series], is_wanted: Callable[[str], bool]) -> dict[str, Series]:
    return {name: progress[name] for name in sorted(progress) if is_wanted(name)}


def _name_files(figures: list[ReportFigure]) -> dict[str, ReportFigure]:
    return {f"figures/{figure.kind}.svg": figure for figure in figures}
