"""A report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from toolkit.reports.contents import Report
from toolkit.reports.figures import ReportFigure
from toolkit.reports.videos import VideoClip

_TEMPLATE = Path(__file__).with_name("report.html")
_SVG_START = re.compile(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_ID = re.compile(r'( id="|url\(#|href="#)')


def to_html(report: Report, clips: Sequence[VideoClip]) -> str:
    """Return a report as an HTML page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    videos = [{"title": clip.title, "element": Markup(clip.element), "caption": clip.caption} for clip in clips]  # noqa: S704
    return template.render(report=report, videos=videos, inline_svg=_inline_svg)


def _inline_svg(figure: ReportFigure, file: str, environment: str) -> Markup:
    """Return the SVG element of a figure: as wide as the page allows, labelled, with ids of its own."""
    body = _METADATA.sub("", figure.svg[figure.svg.index("<svg ") :])
    prefix = re.sub(r"\W", "-", file)
    body = _TAG.sub(lambda tag: _ID.sub(rf"\1{prefix}-", tag[0]), body)
    label = escape(f"{figure.title} on {environment}. {figure.caption}").replace("\\", r"\\")
    return Markup(_SVG_START.sub(rf'<svg \1 role="img" aria-label="{label}">', body, count=1))  # noqa: S704
