"""The scores of a trial: of each variant, and of the whole trial."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from toolkit.tuning.config import TuningPlan
from toolkit.tuning.objectives import OBJECTIVES


def score_variants(scores: Sequence[float], plan: TuningPlan) -> dict[str, float]:
    """Return the mean score of each variant over its seeds so far, by the variant's name.

    :param scores: of the trainings that have ended, in the order of ``plan.trainings``
    """
    by_variant: dict[str, list[float]] = {}
    for training, score in zip(plan.trainings, scores, strict=False):
        by_variant.setdefault(training.variant.name, []).append(score)
    return {name: fmean(variant_scores) for name, variant_scores in by_variant.items()}


def score_trial(scores: Sequence[float], plan: TuningPlan) -> float:
    """Return the score of a trial: of its worst variant, or the mean over its variants.

    :param scores: of at least one training, in the order of ``plan.trainings``
    """
    by_variant = [*score_variants(scores, plan).values()]
    return fmean(by_variant) if plan.config.across_variants == "mean" else get_worst(by_variant, plan)


def find_worst_variant(scores: Sequence[float], plan: TuningPlan) -> str | None:
    """Return the variant with the worst score, the first of equals; ``None`` if a trial is not scored by it."""
    by_variant = score_variants(scores, plan)
    if not by_variant or plan.config.variants is None or plan.config.across_variants == "mean":
        return None
    worst = get_worst([*by_variant.values()], plan)
    return next(name for name, score in by_variant.items() if score == worst)


def get_worst(scores: Sequence[float], plan: TuningPlan) -> float:
    """Return the worst of some scores."""
    return min(scores) if OBJECTIVES[plan.config.objective].direction == "maximize" else max(scores)
