"""A report, or the page of a run, as one HTML page that needs no other file and no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from toolkit.reports.contents import Report
from toolkit.reports.figures import ReportFigure
from toolkit.reports.run_contents import RunReport
from toolkit.reports.videos import VideoClip

_TEMPLATES = Path(__file__).parent
_SVG_START = re.compile(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_ID = re.compile(r'( id="|url\(#|href="#)')


def to_html(report: Report | RunReport, clips: Sequence[VideoClip], videos_caption: str = "") -> str:
    """Return a report, or the page of a run, as an HTML page.

    :param videos_caption: what is said below the videos of a run
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=FileSystemLoader(_TEMPLATES)
    )
    is_run = isinstance(report, RunReport)
    template = environment.get_template("run_report.html" if is_run else "report.html")
    videos = [{"title": clip.title, "element": Markup(clip.element), "caption": clip.caption} for clip in clips]  # noqa: S704
    title = report.title if isinstance(report, RunReport) else report.collection.title
    return template.render(
        report=report, title=title, videos=videos, videos_caption=videos_caption, inline_svg=_inline_svg
    )


def _inline_svg(figure: ReportFigure, file: str, environment: str) -> Markup:
    """Return the SVG element of a figure: as wide as the page allows, labelled, with ids of its own."""
    body = _METADATA.sub("", figure.svg[figure.svg.index("<svg ") :])
    prefix = re.sub(r"\W", "-", file)
    body = _TAG.sub(lambda tag: _ID.sub(rf"\1{prefix}-", tag[0]), body)
    label = escape(f"{figure.title} on {environment}. {figure.caption}").replace("\\", r"\\")
    return Markup(_SVG_START.sub(rf'<svg \1 role="img" aria-label="{label}">', body, count=1))  # noqa: S704
