"""`toolkit plugins` and `toolkit new plugin`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from toolkit.cli.output import print_line, terminal_width
from toolkit.cli.shared import pause_garbage_collection


@pause_garbage_collection()
def plugins(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="Kind: algorithms, policies, wrappers, ...", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Component, to show its parameters.", show_default=False)
    ] = None,
) -> None:
    """List the components that configs can name, or describe one, with YAML to paste."""
    from toolkit.cli.text import format_component, format_listing
    from toolkit.config.registry import KINDS, get_kind

    width = terminal_width()
    if kind and name:
        print_line(format_component(get_kind(kind), name, width))
        return
    for listed_kind in [get_kind(kind)] if kind else KINDS.values():
        print_line(format_listing(listed_kind, width))


def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, as in Python: my_reward.", show_default=False)],
    kind: Annotated[
        Literal["wrapper", "callback", "algorithm", "policy", "schedule"],
        typer.Option(help="Choose the kind of its component."),
    ] = "wrapper",
) -> None:
    """Create a plugin package in a new folder: a component, its tests, a config that uses it."""
    from toolkit.cli.scaffold import Plugin, write_plugin
    from toolkit.cli.text import format_new_plugin
    from toolkit.config.registry import KINDS

    plugin = Plugin(name, next(component_kind for component_kind in KINDS.values() if component_kind.singular == kind))
    print_line(format_new_plugin(plugin, write_plugin(plugin)))
