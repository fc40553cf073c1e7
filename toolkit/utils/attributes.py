"""What to do about a wrapper that asks the layer inside it for an attribute of the environment."""

from __future__ import annotations

from contextlib import suppress


def suggest_base_wrappers(error: BaseException) -> str:
    """Name the layer that stands between a wrapper and an attribute, and what to do about it.

    Wrappers of Gymnasium do not pass on attributes of the environment that they wrap.

    :return: empty if the error is another one, or nothing inside the layer has the attribute
    """
    if not isinstance(error, AttributeError) or not error.name:
        return ""
    from gymnasium import Wrapper

    layer, name = error.obj, error.name
    if not isinstance(layer, Wrapper):
        return ""
    with suppress(Exception):  # a property can raise anything
        if layer.has_wrapper_attr(name):
            between = f"the layer {type(layer).__name__} is between the wrapper and the environment's '{name}'"
            return f"{between}: name the wrapper first under env.base_wrappers, or ask for get_wrapper_attr('{name}')"
    return ""
