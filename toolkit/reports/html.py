"""A report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from toolkit.reports.contents import Figure, Report

_TEMPLATE = Path(__file__).with_name("report.html")
_SVG_START = re.compile(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_IDS = re.compile(r'( id="|url\(#|href="#)')


@dataclass(frozen=True)
class Clip:
    """A video on the page.

    :param element: HTML, or nothing where there is no video
    :param caption: what it shows, or why there is none
    """

    title: str
    element: str
    caption: str


def page(report: Report, clips: Sequence[Clip]) -> str:
    """Return a report as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    videos = [{"title": clip.title, "element": Markup(clip.element), "caption": clip.caption} for clip in clips]  # noqa: S704
    return template.render(report=report, videos=videos, inline=_inline)


def _inline(figure: Figure, task: str) -> Markup:
    """Put an SVG document into a page: as wide as there is room, described, with ids that no other figure has."""
    body = _METADATA.sub("", figure.svg[figure.svg.index("<svg ") :])
    name = re.sub(r"\W", "-", figure.file)
    body = _TAG.sub(lambda tag: _IDS.sub(rf"\1{name}-", tag[0]), body)
    label = escape(f"{figure.title} on {task}. {figure.caption}")
    return Markup(_SVG_START.sub(rf'<svg \1 role="img" aria-label="{_literal(label)}">', body, count=1))  # noqa: S704


def _literal(text: str) -> str:
    return text.replace("\\", r"\\")
