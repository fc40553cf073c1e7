"""What a search leaves behind: its best config and how to confirm it, all trials as a table, pictures of the study."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.config import yaml_document
from toolkit.config.catalog import TOOLKIT
from toolkit.config.snippets import dump_inline
from toolkit.tuning.config import Tuning
from toolkit.tuning.objectives import OBJECTIVES
from toolkit.tuning.plots import draw_history, draw_importances, draw_slices
from toolkit.tuning.search_space import config_with
from toolkit.tuning.storage import shown
from toolkit.tuning.study import Trial, importances
from toolkit.utils.figures import figure_style
from toolkit.utils.files import picture_file, write_text

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

TABLE = "trials.csv"
CONFIRMING_SEEDS = 10
_SEEDS = 2**32  # there are
_FEWEST = 10  # finished trials, for it to be said which values matter


def best_of(trials: Sequence[Trial], tuning: Tuning) -> Trial | None:
    """Return the best trial that trained to its end, the first of equals."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    sign = -1 if OBJECTIVES[tuning.config.objective].direction == "maximize" else 1
    return min(finished, key=lambda trial: sign * (trial.value or 0.0), default=None)


def base_trial(trials: Sequence[Trial], tuning: Tuning) -> Trial | None:
    """Return the finished trial of the base's own values, if there is one."""
    own = {dimension.path: dimension.present for dimension in tuning.space}
    return next((trial for trial in trials if trial.state == "finished" and trial.values == own), None)


def judged(trial: Trial, tuning: Tuning) -> str:
    """Say in words what a finished trial has come to."""
    seeds = tuning.config.seeds
    over = f"seed {seeds[0]}" if len(seeds) == 1 else f"the mean over seeds {', '.join(map(str, seeds))}"
    return f"{OBJECTIVES[tuning.config.objective].title}: {figure(trial.value)}, {over}"


def figure(value: float | None) -> str:
    """Write a value with as many digits as say something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}" if abs(value) < 10 else f"{value:,.1f}"


def write_results(directory: Path, file: Path, tuning: Tuning, trials: Sequence[Trial], study: optuna.Study) -> None:
    """Write all that can be said of a search, over what was there; without a finished trial, only the table.

    :param file: the tuning file, as the user named it
    """
    write_text(directory / TABLE, _table(trials, tuning))
    best = best_of(trials, tuning)
    if best is None:
        return
    config = OBJECTIVES[tuning.config.objective].trained(config_with(tuning.base, best.values))
    write_text(directory / "best.yaml", _origin(file, tuning, trials, best) + config.to_yaml())
    write_text(directory / "confirm.yaml", _confirming(tuning, best))
    _draw(directory / "history.png", draw_history(trials, tuning, best))
    _draw(directory / "slices.png", draw_slices(trials, tuning, best))
    enough = sum(trial.state == "finished" for trial in trials) >= _FEWEST
    if enough and (shares := importances(study)):
        _draw(directory / "importances.png", draw_importances(shares, tuning))


def _origin(file: Path, tuning: Tuning, trials: Sequence[Trial], best: Trial) -> str:
    """Say where the best config comes from, as comments."""
    name = f"trial {best.number} of {len(trials)} of the study '{tuning.config.name}'"
    where = f" in {shown(tuning.config.storage)}" if tuning.config.storage else ""
    base = base_trial(trials, tuning)
    lines = [
        f"Found by `toolkit tune {file}` ({TOOLKIT} {version(TOOLKIT)}): {name}{where}.",
        f"Its {judged(best, tuning)}" + (f"; the base's: {figure(base.value)}." if base and base != best else "."),
        f"It is the best of {len(trials)} on the seeds that it was chosen by: expect less of it on others.",
        "`toolkit experiment confirm.yaml` compares it with the base on fresh seeds.",
        *_left_out(tuning),
        *(f"  {path}: {dump_inline(value)}" for path, value in best.values.items()),
    ]
    return "".join(f"# {line}\n" for line in lines)


def _confirming(tuning: Tuning, best: Trial) -> str:
    """Write an experiment file that compares the best config with the base, on seeds that nothing was chosen by."""
    chosen_by, after = {*tuning.config.seeds}, max(tuning.config.seeds) + 1
    fresh = (seed for seed in chain(range(after, _SEEDS), range(_SEEDS)) if seed not in chosen_by)
    experiment: dict[str, Any] = {
        "name": f"{tuning.config.name}_confirmed"[:100],
        "base": "base.yaml",
        "variants": {"base": _changes({}, tuning), "best": _changes(best.values, tuning)},
        "seeds": [*islice(fresh, CONFIRMING_SEEDS)],
    }
    return "".join(f"# {line}\n" for line in _left_out(tuning)) + yaml_document.dump(experiment)


def _changes(values: Mapping[str, Any], tuning: Tuning) -> dict[str, Any]:
    """Return what makes the config that trials of these values trained out of the base."""
    whole = config_with(tuning.base, values)
    trained = OBJECTIVES[tuning.config.objective].trained(whole)
    if trained == whole:
        return dict(values)
    others = {path: value for path, value in values.items() if path.partition(".")[0] != "callbacks"}
    return others | {"callbacks": trained.to_document().data["callbacks"]}


def _left_out(tuning: Tuning) -> list[str]:
    """Say what of the base trials trained without."""
    if OBJECTIVES[tuning.config.objective].trained(tuning.base) == tuning.base:
        return []
    return ["The base's success criterion is left out, as it was in all trials: it would end a training early."]


def _table(trials: Sequence[Trial], tuning: Tuning) -> str:
    paths = [dimension.path for dimension in tuning.space]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    scores = [f"seed {seed}" for seed in tuning.config.seeds]
    rows.writerow(["number", "state", tuning.config.objective, *scores, "share", "seconds", *paths, "failure"])
    for trial in trials:
        values = [dump_inline(trial.values[path]) if path in trial.values else "" for path in paths]
        own = [*trial.scores, *[""] * (len(scores) - len(trial.scores))]
        value = trial.value if trial.state == "finished" else ""
        seconds = "" if trial.seconds is None else round(trial.seconds, 1)
        rows.writerow([trial.number, trial.state, value, *own, round(trial.share, 3), seconds, *values, trial.failure])
    return text.getvalue()


def _draw(path: Path, picture: Figure) -> None:
    with figure_style(), picture_file(path) as temporary:
        picture.savefig(temporary, format="png", dpi=150)
