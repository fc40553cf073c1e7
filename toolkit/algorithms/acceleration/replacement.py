"""Classes that take the place of a part's class for a while."""

from __future__ import annotations

import copyreg
from typing import Any, ClassVar


class Replacement:
    """A base of such a class, after the class that it replaces.

    It has the replaced class's name, for snapshots and messages. Copies and pickles have the replaced class.
    """

    __slots__ = ()  # so that Python lets a part change its class
    _replaced: ClassVar[type]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._replaced = next(base for base in cls.__bases__ if not issubclass(base, Replacement))
        cls.__name__ = cls._replaced.__name__

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced: Any = super().__reduce_ex__(protocol)
        # pickle refuses another class with the function that it uses itself
        return copyreg._reconstructor, (self._replaced, object, None), *reduced[2:]  # type: ignore[attr-defined]
