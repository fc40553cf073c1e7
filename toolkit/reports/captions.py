"""The sentences of a report: which runs it covers, what its intervals mean, and what they do not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolkit.reports.collect import RunCollection
from toolkit.reports.compare import Comparison
from toolkit.reports.run_record import Criterion, RunRecord
from toolkit.reports.statistics import MIN_BOOTSTRAP_RUNS, N_BAND_RESAMPLES, N_RESAMPLES
from toolkit.reports.tables import format_estimate
from toolkit.utils.data import DEFAULT_WINDOW
from toolkit.utils.errors import make_printable
from toolkit.utils.text import abbreviate, format_count

METHODS = (
    "The interquartile mean is the mean of the middle half of the runs. It, the probability of improvement and "
    "performance profiles follow Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical "
    f"Precipice, NeurIPS 2021. From {MIN_BOOTSTRAP_RUNS} runs on, the interquartile mean has percentile intervals of "
    f"a bootstrap over runs ({N_RESAMPLES:,} resamples; {N_BAND_RESAMPLES:,} for bands). For fewer runs these are too "
    "narrow: it then has intervals of Student's t. Success rates and performance profiles have Wilson "
    "intervals; so has the probability of improvement, as if each run of the smaller variant were one trial, which is "
    "rather too wide than too narrow (Birnbaum and Klose, 1957). Times to success "
    "are Kaplan-Meier estimates with log-log intervals; the interval of their median is that of Brookmeyer and "
    "Crowley. All intervals are 95 % intervals, each for one estimate alone."
)
REWARDS_CAPTION = (
    "Means of the last 100 training episodes, averaged over the ended runs that log them. The raw return and what "
    "each wrapper adds sum up to the shaped return. A part is a number that an environment or a wrapper names in info."
)
EVALUATION_PREFIX = "evaluation-"  # of a figure's kind
_MAX_LISTED = 10
_KNOWN_STATUSES = ("success", "finished", "failed", "interrupted", "unfinished")
# how often the interval of the interquartile mean contained that of a distribution, in 1,000 trials: a normal one, and
# a mixture of two narrow ones, 3 to 7
_COVERAGE = "in simulation it contains the true value 94 times in 100 with 3, 5 and 10 runs"
_COVERAGE_OF_TWO_GROUPS = "78 times with 3 runs, 80 with 5 and 93 with 10"


def write_headline(collection: RunCollection) -> str:
    """Say in one sentence which runs are compared."""
    runs = collection.runs
    environments = {variant.environment for variant in collection.variants}
    n_ended = sum(run.has_ended for run in runs)
    variants = format_count(len({variant.name for variant in collection.variants}), "variant")
    location = environments.pop() if len(environments) == 1 else f"{len(environments)} environments"
    if n_ended < len(runs) or collection.n_not_started:
        state = f"{n_ended:,} have ended"
    else:
        state = "all have ended" if len(runs) > 1 else "it has ended"
    return f"{format_count(len(runs), 'run')} of {variants} on {location}; {state}."


def list_notices(collection: RunCollection) -> list[str]:
    """List the runs that averages leave out, and why; then what makes intervals or scores unreliable."""
    notices = list_stopped_runs(collection.runs)
    if notices:
        notices.append("Averages and success rates leave these runs out. Times to success count them until they stop.")
    return notices + list_doubts(collection)


def list_stopped_runs(runs: Sequence[RunRecord]) -> list[str]:
    """List the runs that have started and not ended, and why."""
    return [*_list_failed_runs(runs), *_list_interrupted_runs(runs)]


def list_doubts(collection: RunCollection) -> list[str]:
    """List what makes intervals or scores unreliable, apart from runs that have not ended."""
    runs = collection.runs
    notices = []
    if collection.n_not_started:
        notices.append(f"Not started: {format_count(collection.n_not_started, 'run')}.")
    notices += _list_diagnoses(runs)
    notices += _list_repeated_seeds(collection)
    n_missing = sum(run.has_ended and run.greedy_return is None for run in runs)
    if n_missing:
        notices.append(
            f"Without evaluation.json, and so without a final greedy return: {format_count(n_missing, 'run')}. "
            "`toolkit report ... --evaluate` plays each that has a model.zip."
        )
    return notices


def _list_failed_runs(runs: Sequence[RunRecord]) -> list[str]:
    sentences = [
        f"{make_printable(str(run.directory))} failed at timestep {run.timesteps:,}: {run.failure_reason}."
        for run in runs
        if run.status == "failed"
    ]
    return abbreviate(sentences, _MAX_LISTED, "more failed.")


def _list_diagnoses(runs: Sequence[RunRecord]) -> list[str]:
    sentences = [
        f"{make_printable(str(run.directory))} is in the averages, but {run.diagnosis}."
        for run in runs
        if run.diagnosis
    ]
    return abbreviate(sentences, _MAX_LISTED, "more did not learn.")


def _list_interrupted_runs(runs: Sequence[RunRecord]) -> Iterator[str]:
    interrupted = [run.directory for run in runs if run.status == "interrupted"]
    unfinished = [run.directory for run in runs if run.status == "unfinished"]
    unknown = [run.directory for run in runs if run.status not in _KNOWN_STATUSES]
    yield from _list_directories("Interrupted, can be resumed", interrupted)
    yield from _list_directories("Still running, or killed", unfinished)
    yield from _list_directories("Unknown status", unknown)


def _list_directories(state: str, directories: Sequence[Path]) -> list[str]:
    names = abbreviate([make_printable(str(directory)) for directory in directories], _MAX_LISTED)
    return [f"{state}: {', '.join(names)}."] if names else []


def _list_repeated_seeds(collection: RunCollection) -> list[str]:
    """List the seeds that several runs of one variant share."""
    sentences = [
        f"Seed {seed} occurs {count:,} times in {variant.name}: these runs are not independent, so that intervals "
        "are too narrow."
        for variant in collection.variants
        for seed, count in Counter(run.seed for run in variant.runs).items()
        if count > 1
    ]
    return abbreviate(sentences, _MAX_LISTED, "more seeds occur more than once.")


def list_findings(comparison: Comparison) -> list[str]:
    """Say which differences between variants the runs show, and which they do not."""
    if not comparison.improvements:
        return ["Fewer than two variants have a score, so none can be called better."]
    estimates = {names: estimate for names, estimate in comparison.improvements.items() if estimate.has_interval}
    if not estimates:
        return ["A single run does not show how the runs of its variant differ, so no variant can be called better."]
    clear = {names: estimate for names, estimate in estimates.items() if estimate.low > 0.5}
    findings = [
        f"A run of {better} scores higher than a run of {worse} with probability "
        f"{format_estimate(estimate, percent=True)}."
        for (better, worse), estimate in clear.items()
    ]
    n_pairs = len(estimates) // 2
    n_unclear = n_pairs - len(clear)
    if n_unclear:
        subject = "The interval of the pair"
        if n_pairs > 1:
            subject = f"For {n_unclear:,} of {format_count(n_pairs, 'pair')} the interval"
        findings.append(
            f"{subject} includes 50 %: these runs show neither which variant scores higher, nor that they are equal."
        )
    if len(comparison.selection) < len(comparison.summaries):
        findings.append(
            f"The {len(comparison.selection)} of {len(comparison.summaries):,} variants with the highest scores are "
            "plotted and compared in pairs. That they are the best is partly luck."
        )
    return findings


def write_figure_caption(comparison: Comparison, kind: str) -> str:
    """Say what a figure shows, of how many runs, and what it does not show.

    :param kind: ``scores``, ``learning``, ``evaluation-LABEL``, ``success`` or ``profile``
    """
    if kind.startswith(EVALUATION_PREFIX):
        return " ".join(_describe_evaluation(comparison, kind.removeprefix(EVALUATION_PREFIX)))
    writers = {
        "scores": _describe_scores,
        "learning": _describe_learning,
        "success": _describe_success,
        "profile": _describe_profile,
    }
    return " ".join(writers[kind](comparison))


def _describe_scores(comparison: Comparison) -> Iterator[str]:
    if comparison.uses_greedy_returns:
        counts = {run.greedy_episodes for summary in comparison.selection for run in summary.variant.ended_runs}
        yield f"Each dot is a run: its mean raw return over {_join_numbers(counts - {0})} greedy episodes after"
        yield "training."
    else:
        yield "Each dot is a run: the mean raw return of its last training episodes, when it still explored."
    yield "The diamond is the interquartile mean over runs. The line is its 95 % interval."
    yield "The interval shows how the mean varies with other seeds of the same config. It says nothing about other"
    yield f"environments or settings. If scores scatter around one value, {_COVERAGE}; if some runs succeed and some"
    yield f"fail, {_COVERAGE_OF_TWO_GROUPS}."
    if any(summary.mean_score and not summary.mean_score.has_interval for summary in comparison.selection):
        yield "A variant without a line has a single run, or runs that scored alike: these do not show a spread."


def _describe_learning(comparison: Comparison) -> Iterator[str]:
    runs = [run for summary in comparison.selection for run in summary.variant.ended_runs]
    criteria = [run.criterion for run in runs]
    windows = {item.window if item and not item.evaluation else DEFAULT_WINDOW for item in criteria}
    counts = _join_counts([(name, curve.n_runs) for name, curve in comparison.curves.items()])
    yield f"Mean raw return of the last {_join_numbers(windows)} training episodes (fewer at first): the interquartile"
    yield f"mean over runs ({counts}). The band is its 95 % interval at each timestep, not one for the whole curve."
    if any(run.status == "success" for run in runs):
        yield "A run that succeeded and stopped early keeps its last value."
    yield "Training explores, so greedy episodes may return more."
    if any(run.criterion and run.criterion.return_threshold is not None for run in runs):
        yield "Grey line, if it is near the curves: the return that counts as success."


def _describe_evaluation(comparison: Comparison, label: str) -> Iterator[str]:
    counts = _join_counts([(name, curve.n_runs) for name, curve in comparison.evaluation_curves[label].items()])
    yield f"Mean raw return of the evaluation '{label}' during training: the interquartile mean over runs ({counts})."
    yield "The band is its 95 % interval at each timestep, not one for the whole curve."
    runs = [run for summary in comparison.selection for run in summary.variant.ended_runs]
    if any(run.status == "success" for run in runs):
        yield "A run that succeeded and stopped early keeps its last value."
    if any(run.criterion and run.criterion.evaluation == label for run in runs):
        yield "Grey line: the return that counts as success."


def describe_criterion(criterion: Criterion) -> str:
    """Say what counts as success."""
    window = f"over {criterion.window:,} episodes"
    place = "in training"
    if criterion.evaluation:
        place = f"in the evaluation '{criterion.evaluation}'"
    if criterion.measure == "success_rate":
        return f"a success rate {place} of {100 * criterion.threshold:g} % {window}"
    if criterion.evaluation:
        return f"a mean return {place} of {criterion.threshold:,g} {window}"
    return f"a mean training return of {criterion.threshold:,g} {window}"


def _describe_success(comparison: Comparison) -> Iterator[str]:
    runs = [run for summary in comparison.selection for run in summary.variant.runs]
    criteria = sorted({run.criterion for run in runs if run.criterion})
    wanted = " or ".join(describe_criterion(criterion) for criterion in criteria)
    yield "Share of runs that have succeeded by each timestep (Kaplan-Meier). Success is"
    yield f"{wanted}, confirmed where the config asks for that. The band is the 95 % interval at each timestep."
    if len(criteria) > 1:
        yield "The success criteria differ, so that these curves do not compare."
    stopped = [
        (summary.name, sum(run.success_timestep is None for run in summary.variant.runs))
        for summary in comparison.selection
    ]
    if any(count for _, count in stopped):
        yield f"Ticks: runs that stopped without success ({_join_counts(stopped)}). The estimate assumes that from"
        yield "then on they would have had the same chances as the others."


def _describe_profile(comparison: Comparison) -> Iterator[str]:
    counts = _join_counts([(summary.name, len(summary.scores)) for summary in comparison.scored_selection])
    yield f"Share of runs ({counts}) that score more than the value on the horizontal axis, with the 95 % interval at"
    yield "each point. A variant whose curve is nowhere below another is better for any return one may ask for. Where"
    yield "curves cross, that return decides."


def write_pairs_caption(comparison: Comparison) -> str:
    """Say what the table of pairs shows."""
    estimates = [*comparison.improvements.values()]
    return (
        "Probability that a run of the row's variant scores higher than a run of the column's variant (a tie counts "
        "half), with its 95 % interval; bold if that excludes 50 %. This is how often, not by how much. Intervals are "
        f"not corrected for multiple comparisons ({format_count(len(estimates) // 2, 'pair')}): of 20 pairs without "
        "any difference, at most about one would stand out."
    )


def write_overall_caption(n_environments: int) -> str:
    """Say what the table over all environments shows."""
    return (
        f"The probability of improvement, averaged over {n_environments} environments; each is compared by itself. "
        "Returns are not averaged over environments, because they have no common scale. The intervals are about "
        "other seeds on these environments, not about other environments."
    )


def _join_counts(counts: Sequence[tuple[str, int]]) -> str:
    if len({count for _, count in counts}) == 1:
        return f"{counts[0][1]:,} each" if len(counts) > 1 else f"{counts[0][1]:,}"
    return ", ".join(f"{name} {count:,}" for name, count in counts)


def _join_numbers(numbers: set[int]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(numbers))
