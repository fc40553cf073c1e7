"""What a report says in words: which runs it is of, what their intervals mean, and what they do not allow to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolkit.reports.collect import Gathered
from toolkit.reports.compare import Comparison
from toolkit.reports.statistics import BAND_RESAMPLES, RESAMPLES
from toolkit.reports.tables import estimate, plural
from toolkit.utils.data import DEFAULT_WINDOW
from toolkit.utils.errors import readable

METHODS = (
    "Interquartile mean: the mean of the middle half of the runs. Its intervals, those of the probability of "
    "improvement and those of performance profiles are percentiles of a stratified bootstrap over runs "
    f"({RESAMPLES:,} resamples, {BAND_RESAMPLES:,} for bands), as in Agarwal et al., Deep Reinforcement Learning at "
    "the Edge of the Statistical Precipice, NeurIPS 2021. Success rates have Wilson's interval. Times are Kaplan and "
    "Meier's, with log-log intervals and, for the median, Brookmeyer and Crowley's. All intervals are 95 % "
    "intervals, each for itself."
)
_MOST_NAMED = 10  # runs
_KNOWN = ("success", "finished", "failed", "interrupted", "unfinished")
# how often the interval of the interquartile mean held that of a normal distribution, in 4,000 trials
_COVERAGE = "in simulation it holds the true value 75 times in 100 with 3 runs, 90 with 5, 93 with 10"


def headline(gathered: Gathered) -> str:
    """Say what is compared."""
    runs, tasks = gathered.runs, {variant.task for variant in gathered.variants}
    ended = sum(run.has_ended for run in runs)
    variants = plural(len({variant.name for variant in gathered.variants}), "variant")
    where = tasks.pop() if len(tasks) == 1 else f"{len(tasks)} environments"
    every = "all have ended" if len(runs) > 1 else "it has ended"
    state = every if ended == len(runs) and not gathered.absent else f"{ended:,} have ended"
    return f"{plural(len(runs), 'run')} of {variants} on {where}; {state}."


def notices(gathered: Gathered) -> list[str]:
    """Say which runs are not in the averages, and why."""
    runs = gathered.runs
    failed = [run for run in runs if run.status == "failed"]
    said = [
        f"{readable(str(run.directory))} failed at timestep {run.timesteps:,}: {run.reason}."
        for run in failed[:_MOST_NAMED]
    ]
    if len(failed) > _MOST_NAMED:
        said.append(f"{len(failed) - _MOST_NAMED:,} more failed.")
    said += _named("Interrupted, can be resumed", [run.directory for run in runs if run.status == "interrupted"])
    said += _named("Not ended, at work or killed", [run.directory for run in runs if run.status == "unfinished"])
    said += _named("Of an unknown status", [run.directory for run in runs if run.status not in _KNOWN])
    if said:
        said.append("These are in no average and no success rate. In times to success they count until they stopped.")
    if gathered.absent:
        said.append(f"Not begun: {plural(gathered.absent, 'run')}.")
    said += _repeated(gathered)
    missing = sum(run.has_ended and run.greedy_return is None for run in runs)
    if missing:
        what = f"{plural(missing, 'run')} without evaluation.json, and so without a final greedy return"
        said.append(f"{what}: `toolkit report ... --evaluate` plays it if there is a model.zip.")
    return said


def _repeated(gathered: Gathered) -> list[str]:
    """Say which seeds a variant has more than once."""
    said = [
        f"Seed {seed} is there {count:,} times in {variant.name}: these runs are not independent, and "
        "intervals are too narrow."
        for variant in gathered.variants
        for seed, count in Counter(run.seed for run in variant.runs).items()
        if count > 1
    ]
    more = [f"{len(said) - _MOST_NAMED:,} more seeds are there more than once."] if len(said) > _MOST_NAMED else []
    return said[:_MOST_NAMED] + more


def _named(what: str, directories: Sequence[Path]) -> list[str]:
    if not directories:
        return []
    more = f" and {len(directories) - _MOST_NAMED:,} more" if len(directories) > _MOST_NAMED else ""
    return [f"{what}: {', '.join(readable(str(one)) for one in directories[:_MOST_NAMED])}{more}."]


def findings(comparison: Comparison) -> list[str]:
    """Say what the pairs allow to say, and what not."""
    if not comparison.pairs:
        return ["Fewer than two variants have a score: nothing can be said of which is better."]
    pairs = {names: pair for names, pair in comparison.pairs.items() if pair.has_interval}
    if not pairs:
        return ["With a single run of a variant nothing can be said of how its runs differ, nor which is better."]
    clear = {names: pair for names, pair in pairs.items() if pair.low > 0.5}
    said = [
        f"A run of {one} scores higher than one of {other} with probability {estimate(pair, percent=True)}."
        for (one, other), pair in clear.items()
    ]
    count = len(pairs) // 2
    if left := count - len(clear):
        which = f"For {left:,} of {plural(count, 'pair')} the interval" if count > 1 else "The interval of the pair"
        said.append(f"{which} includes one half: these runs do not tell which scores higher, nor that they are equal.")
    if len(comparison.drawn) < len(comparison.summaries):
        best = f"Of {len(comparison.summaries):,} variants the {len(comparison.drawn)} that score highest are drawn"
        said.append(f"{best} and compared in pairs. That they are the best is in part luck.")
    return said


def caption(comparison: Comparison, kind: str) -> str:
    """Say what a figure shows, of how many runs, and what it does not allow to say."""
    words = {"scores": _of_scores, "learning": _of_learning, "success": _of_success, "profile": _of_profile}
    return " ".join(words[kind](comparison))


def _of_scores(comparison: Comparison) -> Iterator[str]:
    if comparison.greedy:
        played = {run.greedy_episodes for one in comparison.drawn for run in one.variant.ended}
        yield f"Each dot is a run: its mean raw return over {_either(played - {0})} greedy episodes after training."
    else:
        yield "Each dot is a run: the mean raw return of its last training episodes, in which it still explored."
    yield "The diamond is the interquartile mean over runs; the line, of two runs or more, its 95 % interval."
    yield "That tells how the mean would vary with other seeds of the same recipe, nothing about other environments or"
    yield f"settings. With few runs it is too narrow: {_COVERAGE}."
    if any(one.score and one.score.low == one.score.high for one in comparison.drawn):
        yield "An interval without width means that these runs scored alike, not that all would."


def _of_learning(comparison: Comparison) -> Iterator[str]:
    ended = [run for one in comparison.drawn for run in one.variant.ended]
    windows = {run.criterion[1] if run.criterion else DEFAULT_WINDOW for run in ended}
    counts = _counts([(name, curve.runs) for name, curve in comparison.curves.items()])
    yield f"Mean raw return of the last {_either(windows)} training episodes, fewer at first: the interquartile mean"
    yield f"over runs ({counts}) and, as a band, its 95 % interval at each timestep by itself, not of the curve as a"
    yield "whole."
    if any(run.status == "success" for run in ended):
        yield "A run that stopped early because it had succeeded goes on with its last value."
    yield "Training explores: greedy episodes may return more."
    if any(run.criterion for run in ended):
        yield "Grey line, if in sight: the return that counts as success."


def _of_success(comparison: Comparison) -> Iterator[str]:
    runs = [run for one in comparison.drawn for run in one.variant.runs]
    criteria = sorted({run.criterion for run in runs if run.criterion})
    wanted = " or ".join(f"{threshold:,g} over {window:,} episodes" for threshold, window in criteria)
    yield f"Share of runs that had succeeded by then (Kaplan and Meier): a mean training return of {wanted},"
    yield "confirmed where the config asks for that. The band is the 95 % interval at each timestep by itself."
    if len(criteria) > 1:
        yield "The criteria differ: what they count as success does not compare."
    stopped = [(one.name, sum(run.solved_at is None for run in one.variant.runs)) for one in comparison.drawn]
    if any(count for _, count in stopped):
        yield f"Ticks: runs that stopped without success ({_counts(stopped)}). What they would have done later is not"
        yield "known; their prospects are taken to be those of the others."


def _of_profile(comparison: Comparison) -> Iterator[str]:
    counts = _counts([(one.name, len(one.scores)) for one in comparison.compared])
    yield f"Share of runs ({counts}) that score more than what is given below, with the 95 % interval at each point by"
    yield "itself. A curve that is nowhere below another is better whatever return is asked for; where curves cross,"
    yield "that decides."


def pairs_caption(comparison: Comparison) -> str:
    """Say what the table of pairs shows."""
    pairs = [*comparison.pairs.values()]
    said = (
        "How probably a run of the row's variant scores higher than one of the column's (a tie counts half), with its "
        "95 % interval; strong where that excludes 50 %. It says how often, not by how much. Nothing is corrected for "
        f"looking at {plural(len(pairs) // 2, 'pair')}: of 20 pairs without any difference one would stand out."
    )
    if any(pair.value == 1 for pair in pairs):
        said += (
            " 100 % means that each run of the one scored higher than every run of the other: resampling them "
            "cannot put that in doubt, other seeds could."
        )
    return said


def overall_caption(tasks: int) -> str:
    """Say what the table over all environments shows."""
    return (
        f"The probability of improvement, averaged over {tasks} environments, each resampled by itself. Returns are "
        "not averaged over environments: they have no common scale. The intervals are about other seeds on these "
        "environments, not about other environments."
    )


def _counts(counts: Sequence[tuple[str, int]]) -> str:
    if len({count for _, count in counts}) == 1:
        return f"{counts[0][1]:,} each" if len(counts) > 1 else f"{counts[0][1]:,}"
    return ", ".join(f"{name} {count:,}" for name, count in counts)


def _either(numbers: set[int]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(numbers))
