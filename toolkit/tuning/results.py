"""The results of a search: its best config, an experiment that confirms it, a table of trials, and figures."""

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
from toolkit.experiments.variants import PlannedRun
from toolkit.tuning.config import TuningPlan
from toolkit.tuning.objectives import OBJECTIVES
from toolkit.tuning.plots import draw_history, draw_importances, draw_slices
from toolkit.tuning.scores import find_worst_variant, score_variants
from toolkit.tuning.search_space import override_config
from toolkit.tuning.storage import hide_password
from toolkit.tuning.study import Trial, compute_importances
from toolkit.utils.figures import figure_style
from toolkit.utils.files import picture_file, write_text

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

TRIALS_FILE = "trials.csv"
N_CONFIRMING_SEEDS = 10
_MAX_VARIANT_NAME = 95  # characters, as "-base" follows
_N_SEEDS = 2**32  # possible seeds: 0 to 2**32 - 1
_MIN_IMPORTANCE_TRIALS = 10  # finished trials that importances need


def find_best_trial(trials: Sequence[Trial], plan: TuningPlan) -> Trial | None:
    """Return the best finished trial, the first of equals; ``None`` if none has finished."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    sign = -1 if OBJECTIVES[plan.config.objective].direction == "maximize" else 1
    return min(finished, key=lambda trial: sign * (trial.value or 0.0), default=None)


def find_base_trial(trials: Sequence[Trial], plan: TuningPlan) -> Trial | None:
    """Return the finished trial with the base's own values; ``None`` if there is none."""
    base_values = {dimension.path: dimension.base_value for dimension in plan.space}
    return next((trial for trial in trials if trial.state == "finished" and trial.values == base_values), None)


def describe_score(trial: Trial, plan: TuningPlan) -> str:
    """Return the score of a finished trial in words."""
    seeds = plan.config.seeds
    scope = f"seed {seeds[0]}" if len(seeds) == 1 else f"the mean over seeds {', '.join(map(str, seeds))}"
    if (worst := find_worst_variant(trial.scores, plan)) is not None:
        variants = f" on the worst variant, {worst}"
    else:
        variants = "" if plan.config.variants is None else f" on average over {len(plan.variants)} variants"
    return f"{OBJECTIVES[plan.config.objective].title}: {format_score(trial.value)}{variants}, {scope}"


def format_score(value: float | None) -> str:
    """Return a score with its significant digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}" if abs(value) < 10 else f"{value:,.1f}"


def write_results(directory: Path, file: Path, plan: TuningPlan, trials: Sequence[Trial], study: optuna.Study) -> None:
    """Write the results of a search over the former ones. Without a finished trial, write only the table.

    :param file: path of the tuning file, as the user wrote it
    """
    write_text(directory / TRIALS_FILE, _format_table(trials, plan))
    best = find_best_trial(trials, plan)
    if best is None:
        return
    config = OBJECTIVES[plan.config.objective].adapt_config(override_config(plan.base, best.values))
    write_text(directory / "best.yaml", _format_origin(file, plan, trials, best) + config.to_yaml())
    write_text(directory / "confirm.yaml", _format_confirmation(plan, best))
    _save_figure(directory / "history.png", draw_history(trials, plan, best))
    _save_figure(directory / "slices.png", draw_slices(trials, plan, best))
    n_finished = sum(trial.state == "finished" for trial in trials)
    if n_finished >= _MIN_IMPORTANCE_TRIALS and (importances := compute_importances(study)):
        _save_figure(directory / "importances.png", draw_importances(importances, plan))


def _format_origin(file: Path, plan: TuningPlan, trials: Sequence[Trial], best: Trial) -> str:
    """Return comments that say where the best config comes from."""
    trial = f"trial {best.number} of {len(trials)} of the study '{plan.config.name}'"
    database = f" in {hide_password(plan.config.storage)}" if plan.config.storage else ""
    base_trial = find_base_trial(trials, plan)
    base_score = f"; the base's: {format_score(base_trial.value)}" if base_trial and base_trial != best else ""
    lines = [
        f"Found by `toolkit tune {file}` ({TOOLKIT} {version(TOOLKIT)}): {trial}{database}.",
        f"Its {describe_score(best, plan)}{base_score}.",
        f"It is the best of {len(trials)} trials on the seeds that selected it: expect a worse score on others.",
        *_describe_variants(best, plan),
        "`toolkit experiment confirm.yaml` compares it with the base on fresh seeds.",
        *_describe_removed_criterion(plan),
        *(f"  {path}: {dump_inline(value)}" for path, value in best.values.items()),
    ]
    return _format_comments(lines)


def _format_confirmation(plan: TuningPlan, best: Trial) -> str:
    """Return an experiment file that compares the best config with the base, on seeds that no trial has used."""
    used, first = {*plan.config.seeds}, max(plan.config.seeds) + 1
    fresh = (seed for seed in chain(range(first, _N_SEEDS), range(_N_SEEDS)) if seed not in used)
    experiment: dict[str, Any] = {
        "name": f"{plan.config.name}_confirmed"[:100],
        "base": "base.yaml",
        "variants": _make_confirming_variants(best, plan),
        "seeds": [*islice(fresh, N_CONFIRMING_SEEDS)],
    }
    return _format_comments(_describe_removed_criterion(plan)) + yaml_document.dump(experiment)


def _make_confirming_variants(best: Trial, plan: TuningPlan) -> dict[str, dict[str, Any]]:
    """Return the base and the best config as variants of the base; with each variant of the search, if it has some."""
    values_by_name = {"base": {}, "best": best.values}
    if plan.config.variants is None:
        return {name: _get_overrides(values, plan) for name, values in values_by_name.items()}
    return {
        f"{variant[:_MAX_VARIANT_NAME]}-{name}": _get_overrides({**own_values, **values}, plan)
        for variant, own_values in plan.config.variants.items()
        for name, values in values_by_name.items()
    }


def _get_overrides(values: Mapping[str, Any], plan: TuningPlan) -> dict[str, Any]:
    """Return the overrides that turn the base into the config that a trial with these values trains."""
    config = override_config(plan.base, values)
    adapted = OBJECTIVES[plan.config.objective].adapt_config(config)
    if adapted == config:
        return dict(values)
    others = {path: value for path, value in values.items() if path.partition(".")[0] != "callbacks"}
    return others | {"callbacks": adapted.to_document().data["callbacks"]}


def _describe_variants(best: Trial, plan: TuningPlan) -> list[str]:
    """Return a comment about the scores of the best trial on each variant, if there are variants."""
    if plan.config.variants is None:
        return []
    scores = [f"{name} {format_score(score)}" for name, score in score_variants(best.scores, plan).items()]
    return [f"Its scores on the variants, which change it as in confirm.yaml: {', '.join(scores)}."]


def _describe_removed_criterion(plan: TuningPlan) -> list[str]:
    """Return a comment if trials train without the success criterion of the base."""
    if OBJECTIVES[plan.config.objective].adapt_config(plan.base) == plan.base:
        return []
    return ["The success criterion of the base is removed, as in all trials: it would end training early."]


def _format_comments(lines: Sequence[str]) -> str:
    return "".join(f"# {line}\n" for line in lines)


def _format_table(trials: Sequence[Trial], plan: TuningPlan) -> str:
    paths = [dimension.path for dimension in plan.space]
    variant_columns = [f"variant {name}" for name in plan.config.variants or ()]
    training_columns = [_name_training(training, plan) for training in plan.trainings]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    score_columns = [plan.config.objective, *variant_columns, *training_columns]
    writer.writerow(["number", "state", *score_columns, "share", "seconds", *paths, "failure"])
    for trial in trials:
        values = [dump_inline(trial.values[path]) if path in trial.values else "" for path in paths]
        scores = [*trial.scores, *[""] * (len(training_columns) - len(trial.scores))]
        if plan.config.variants is not None:
            by_variant = score_variants(trial.scores, plan)
            scores = [*(by_variant.get(name, "") for name in plan.config.variants), *scores]
        value = trial.value if trial.state == "finished" else ""
        seconds = "" if trial.seconds is None else round(trial.seconds, 1)
        share = round(trial.share, 3)
        writer.writerow([trial.number, trial.state, value, *scores, share, seconds, *values, trial.failure])
    return text.getvalue()


def _name_training(training: PlannedRun, plan: TuningPlan) -> str:
    """Return the column of a training's score."""
    return f"seed {training.seed}" if plan.config.variants is None else f"{training.variant.name} seed {training.seed}"


def _save_figure(path: Path, figure: Figure) -> None:
    with figure_style(), picture_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
