"""Values of ``env.info_keywords``: what SB3's Monitor takes from the ``info`` of an episode's last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.config.schema import RunConfig
from toolkit.utils.errors import Problem, did_you_mean


def read_info_keywords(config: RunConfig, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config's info keywords.

    :param info: of an episode's last step, inside the wrappers under ``env.wrappers``
    :raises ConfigError: if it lacks one
    """
    names = config.env.info_keywords
    problems = [
        Problem(
            ("env", "info_keywords", index),
            f"KeyError: the last step of an episode of '{config.env.name}' has no info['{name}']",
            _suggest_keyword(name, info),
        )
        for index, name in enumerate(names)
        if name not in info
    ]
    if problems:
        raise config.make_error(problems)
    return {name: info[name] for name in names}


def _suggest_keyword(name: str, info: Mapping[str, Any]) -> str:
    known = [key for key in info if isinstance(key, str) and key != "episode"]
    return did_you_mean(name, known) or "return it there, in a wrapper under env.base_wrappers for example"
