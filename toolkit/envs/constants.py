"""Which values of a wrapper are no state: a call in the config makes them again on resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.config.components import BoundComponent
from toolkit.snapshots import archive, capture, plain_data

_MAX_BYTES = 1 << 20  # of a result that is saved


def find_constants(component: BoundComponent, arguments: Mapping[str, Any]) -> list[Any]:
    """Return the results of calls that are no state: what is large, as a data set, and what cannot be saved.

    Others are saved as any attribute is: an object that learns, a list that a wrapper changes.

    :param arguments: those that the component is built with
    """
    return [value for value in component.find_call_results(arguments) if not _may_be_state(value)]


def _may_be_state(value: Any) -> bool:
    try:
        return archive.fits(capture.capture_value(value), _MAX_BYTES)
    except plain_data.NotPlainError:
        return False
