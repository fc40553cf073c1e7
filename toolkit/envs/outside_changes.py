"""What calls from outside, such as a callback's ``env_method``, change in an environment during an episode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import gymnasium as gym

from toolkit.envs.carried_state import (
    SKIPPED,
    Attributes,
    find_changes,
    read_attributes,
    read_state,
    set_attributes,
    set_state,
)
from toolkit.envs.episode_trace import checksum
from toolkit.snapshots import capture
from toolkit.snapshots.object_kinds import has_state_dict
from toolkit.snapshots.transfer import contains, is_generator

_N_EXAMINED = 3  # calls of each method


class OutsideChanges:
    """Records what each call changes, so that a replay can change it at the same step.

    That is a layer's plain attributes, and its ``state_dict``.

    :param layers: the environment's layers, outermost first; the last one is inside all wrappers
    :param own: names of the outermost layer's own attributes, which do not count
    :ivar unsaved: names what calls change, or may change, that cannot be saved
    """

    def __init__(self, layers: Sequence[gym.Env[Any, Any]], own: Collection[str]) -> None:
        self._layers = layers
        self._own = own
        self._changes: list[list[Any]] = []
        self._changed_names: list[list[str]] = [[], []]  # of the outermost layer and the inner environment
        self._n_examined: Counter[str] = Counter()
        self.unsaved: list[str] = []

    def clear(self) -> None:
        """Forget all changes: another episode starts."""
        self._changes = []

    def call(self, n_actions: int, name: str, method: Callable[[], Any]) -> Any:
        """Call something, and record what changes.

        :param n_actions: number of the episode's actions so far
        :param name: of the method, for the user
        """
        before = self._read()
        self._n_examined[name] += 1
        objects = self._checksums() if self._n_examined[name] <= _N_EXAMINED else None
        try:
            result = method()
        finally:
            changes = [find_changes(*pair) for pair in zip(before, self._read(), strict=True)]
            if any(changes):
                self._changes.append([n_actions, changes])
                self._note_names(changes[0], changes[-1])
        if objects is not None:
            self._note_unsaved(name, objects, is_silent=result is None and not any(changes))
        return result

    def to_data(self) -> list[Any]:
        """Return the changes of the episode as plain data."""
        return [*self._changes]

    def apply(self, data: list[Any], n_actions: int) -> None:
        """Make the changes again that :meth:`to_data` returned, those after a number of actions."""
        for number, changes in data:
            if number == n_actions:
                for layer, attributes in zip(self._layers, changes, strict=True):
                    set_state(layer, attributes)
                self._changes.append([number, changes])

    def read_changed(self) -> list[Attributes]:
        """Return the present values of attributes that calls have changed since training started.

        Generators are left out: many copies of one would draw the same numbers.

        :return: those of the outermost layer, and those of the inner environment
        """
        states = self._read()
        return [
            {name: data for name, data in attributes.items() if name in names and not contains(data, is_generator)}
            for names, attributes in zip(self._changed_names, (states[0], states[-1]), strict=True)
        ]

    def set_changed(self, changed: Sequence[Attributes]) -> None:
        """Set what :meth:`read_changed` returned of another environment of this kind."""
        for layer, attributes in zip((self._layers[0], self._layers[-1]), changed, strict=True):
            set_state(layer, attributes)
        self._note_names(*changed)

    def _note_names(self, own: Attributes, inner: Attributes) -> None:
        for names, attributes in zip(self._changed_names, (own, inner), strict=True):
            names += [name for name in attributes if name not in names]

    def read_own(self) -> Attributes:
        """Return the attributes that others have set on the outermost layer."""
        return read_attributes(self._layers[0], self._own)

    def set_own(self, attributes: Attributes) -> None:
        """Restore what :meth:`read_own` returned."""
        set_attributes(self._layers[0], attributes)

    def _read(self) -> list[Attributes]:
        return [self.read_own(), *map(read_state, self._layers[1:])]

    def _checksums(self) -> dict[str, int | None]:
        """Return the checksum of each attribute of the inner environment that is an object; None if it has none."""
        env = self._layers[-1]
        if has_state_dict(env):
            return {}
        captured = capture.capture_attributes(env, {*SKIPPED, "spec", *read_attributes(env)}, self._layers)
        return {name: checksum(data) for name, data in captured.state.items()} | dict.fromkeys(captured.unsaved)

    def _note_unsaved(self, name: str, before: dict[str, int | None], *, is_silent: bool) -> None:
        """Note the objects that a call has changed; if it seems to change nothing, those that nobody can see into."""
        after = self._checksums()
        changed = [attribute for attribute, value in after.items() if before.get(attribute, value) != value]
        if not changed and is_silent:
            changed = [attribute for attribute, value in after.items() if value is None]
        description = f"{', '.join(changed)} after {name}()"
        if changed and description not in self.unsaved:
            self.unsaved.append(description)
