"""The sentences of a page about one run: what each figure shows, in which units, and what it does not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from toolkit.envs.action_count import ActionCount
from toolkit.reports.run_figures import MAX_PANELS, group_size, group_size_of_lines
from toolkit.reports.run_record import RunRecord
from toolkit.training.evaluations import RecordedEvaluation
from toolkit.training.progress_csv import Series
from toolkit.utils.data import DEFAULT_WINDOW, compute_mean
from toolkit.utils.errors import make_printable
from toolkit.utils.text import format_number

TABLE_CAPTION = "As logged in progress.csv. Rows: how many have the number. Last: in the last of them."
REWARDS_CAPTION = (
    "The raw return of training episodes and what each wrapper adds to it, stacked: means of the last 100 episodes. "
    "They sum up to the shaped return. Parts are numbers that an environment or a wrapper names in info."
)
REWARDS_TABLE_CAPTION = "Parts of the return: means of the last 100 training episodes, from monitor.csv."
_NEGLIGIBLE_DISCOUNT = 0.01
_STATES = {
    "success": "training met its success criterion",
    "finished": "training has ended",
    "failed": "training failed",
    "interrupted": "training was interrupted",
    "unfinished": "training has not ended",
}
_PANELS = {
    "exploration": "What the schedules of the config and automatic tuning have set.",
    "parameters": "What schedules and curricula have set for episodes that start then. Stages count from 1.",
    "losses": "Losses of the updates. Most mean nothing by themselves: a small loss is no high return. One that grows "
    "all the time shows divergence.",
    "updates": "What else the algorithm says of its updates.",
    "episodes": "Means over the last training episodes that count, in steps or in the unit of the number.",
}


def get_window(record: RunRecord) -> int:
    """Return over how many training episodes the means of a run are computed."""
    return record.criterion.window if record.criterion else DEFAULT_WINDOW


def write_headline(record: RunRecord) -> str:
    """Say in one sentence which run it is and how it ended."""
    config = record.config
    state = _STATES.get(record.status, "its status is unknown")
    return make_printable(f"{config.algorithm.name} on {config.env.name}, seed {record.seed}: {state}.")


def describe_learning(record: RunRecord) -> str:
    """Say what the learning curve shows."""
    sentences = [
        f"Raw return of each training episode, and the mean of the last {get_window(record):,} (fewer at first), at "
        "the timestep at which the episode counted.",
        "Training explores, so greedy episodes may return more.",
    ]
    if record.criterion and record.criterion.return_threshold is not None:
        sentences.append("Dashed: the mean that counts as success.")
    return " ".join(sentences)


def describe_evaluations(evaluations: Mapping[str, Sequence[RecordedEvaluation]]) -> str:
    """Say what the evaluations during training show.

    :param evaluations: by their labels
    """
    counts = {len(item.returns) for items in evaluations.values() for item in items}
    episodes = " or ".join(f"{count:,}" for count in sorted(counts))
    return (
        f"Mean raw return of the callback evaluate, over {episodes} episodes each. The band is the 95 % interval of "
        "each mean, for this agent at that timestep. It says nothing about other seeds of training. The highest of "
        "many means is partly luck."
    )


def describe_values(progress: Mapping[str, Series]) -> str:
    """Say what the value estimates show, how far they are from the returns, and what the returns lack."""
    return " ".join(_list_value_sentences(progress))


def _list_value_sentences(progress: Mapping[str, Series]) -> Iterator[str]:
    estimates, returns = progress["value/estimate"], progress["value/discounted_return"]
    yield "Value estimate of the first observation of an episode, when it was seen, and the discounted rewards of that"
    yield "episode. Both are in units of the reward that the algorithm gets, after wrappers and normalization."
    yield _describe_points(group_size_of_lines({"": estimates, " ": returns}))
    n_last = max(1, len(estimates.values) // 4)
    estimate, realised = (compute_mean(series.values[-n_last:]) for series in (estimates, returns))
    verdict = "above" if estimate > realised else "below"
    numbers = [format_number(number, 2, ",") for number in (estimate, realised, abs(estimate - realised))]
    rows = "row" if n_last == 1 else f"{n_last:,} rows"
    yield f"In the last {rows} the mean estimate is {numbers[0]}, and the mean return"
    yield f"{numbers[1]}: {numbers[2]} {verdict} what followed."
    yield "Estimates that stay above the returns are overestimates. The returns come from training, which explores, so"
    yield "estimates of the greedy policy may be somewhat higher."
    left = progress.get("value/discount_left")
    if left is not None and (largest := float(left.values.max())) > _NEGLIGIBLE_DISCOUNT:
        yield "A time limit ended some episodes. The returns lack what would have come later, with a discount of up to"
        yield f"{largest:.2f}; estimates include it, so a gap of that kind is no error."
    if "train/ent_coef" in progress:
        yield "Estimates include the bonus for entropy, and returns do not."


def describe_actions(counts: Sequence[ActionCount]) -> str:
    """Say what the histogram of actions shows."""
    components = {count.component for count in counts}
    n_steps = sum(count.steps for count in counts if count.component == counts[0].component)
    sentences = [
        f"Share of each action in the last {n_steps:,} steps of training, over all environments.",
        "They include exploration.",
    ]
    if any(count.low < count.high for count in counts):
        sentences.append("The range of an action is divided into parts of equal width.")
    if len(components) > MAX_PANELS:
        sentences.append(f"The first {MAX_PANELS} of {len(components):,} components; actions.csv has all.")
    return " ".join(sentences)


def describe_panels(kind: str, lines: Mapping[str, Series], count: int) -> str:
    """Say what the panels of logged numbers show.

    :param kind: ``exploration``, ``parameters``, ``losses``, ``updates`` or ``episodes``
    :param count: how many numbers there are; the first ones are drawn
    """
    sentences = [_PANELS[kind], _describe_points(max(map(group_size, lines.values())))]
    if count > len(lines):
        sentences.append(f"The first {len(lines)} of {count:,} numbers; progress.csv has all.")
    return " ".join(sentences)


def _describe_points(size: int) -> str:
    return (
        "Each point is a row of progress.csv." if size == 1 else f"Each point is the mean of {size:,} rows or fewer."
    )
