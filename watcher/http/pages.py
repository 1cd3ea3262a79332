"""Renders the pages from the templates beside this module; every value in them is escaped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import jinja2
import markupsafe

from watcher.telemetry import human_duration, human_size, printable

HERE = os.path.dirname(__file__)
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

PLOT_WIDTH, PLOT_HEIGHT = 600, 96
"""Units of the plots' coordinates."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that a page loads."""

    content: bytes
    media_type: str


class Pages:
    """The templates and the assets; both are read when they are needed first."""

    @cached_property
    def assets(self) -> Mapping[str, Asset]:
        """The assets by the names under which they are served."""
        return dict(self._named.values())

    @cached_property
    def _named(self) -> Mapping[str, tuple[str, Asset]]:
        """The assets, and the names under which they are served, by the names of their files."""
        found = {}
        for file_name in sorted(os.listdir(os.path.join(HERE, "static"))):
            with open(os.path.join(HERE, "static", file_name), "rb") as file:
                content = file.read()
            stem, extension = os.path.splitext(file_name)
            served = f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}{extension}"
            found[file_name] = (served, Asset(content, MEDIA_TYPES[extension]))
        return found

    @cached_property
    def _templates(self) -> jinja2.Environment:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(os.path.join(HERE, "templates")),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            finalize=_shown,
        )
        environment.filters |= {
            "size": human_size,
            "duration": lambda seconds: human_duration(timedelta(seconds=seconds)),
            "clock": lambda text: text[11:19] + "Z" if text else "-",
            "moment": lambda text: text[:19].replace("T", " ") + "Z" if text else "-",
            "seconds": _seconds,
            "directory": lambda path: path.rpartition("/")[0],
            "file_name": lambda path: path.rpartition("/")[2],
            "prose": _prose,
            "is_web": lambda url: bool(url) and url.startswith(("https://", "http://")),
        }
        environment.globals |= {"asset": lambda name: f"/static/{self._named[name][0]}", "plot": plot}
        environment.globals["parts"] = environment.get_template("parts.html").module
        return environment

    def render(self, template: str, **values: Any) -> str:
        """A whole page."""
        return self._templates.get_template(template).render(values)

    def parts(self, template: str, **values: Any) -> Mapping[str, str]:
        """The parts of a page that change: its blocks whose names begin with `live_`."""
        loaded = self._templates.get_template(template)
        return {
            name: "".join(block(loaded.new_context(dict(values))))
            for name, block in loaded.blocks.items()
            if name.startswith("live_")
        }


@dataclass(frozen=True, slots=True)
class Plot:
    """A series as an SVG path in a box of `PLOT_WIDTH` by `PLOT_HEIGHT`, and its largest and last values."""

    line: str
    area: str
    most: float
    last: float


def plot(minutes: list[Mapping[str, float]], name: str) -> Plot:
    """The plot of one number of each minute."""
    values = [float(minute[name]) for minute in minutes]
    most = max(values, default=0.0)
    step = PLOT_WIDTH / max(1, len(values) - 1)
    height = PLOT_HEIGHT - 4
    points = [
        f"{place * step:.1f},{PLOT_HEIGHT - 2 - height * value / (most or 1):.1f}"
        for place, value in enumerate(values)
    ]
    line = "M" + " L".join(points)
    return Plot(line, f"{line} V{PLOT_HEIGHT} H0 Z", most, values[-1] if values else 0.0)


def _shown(value: object) -> object:
    """A text with control and direction characters escaped, so that no name can change how a page reads."""
    return printable(value) if type(value) is str else value


def _prose(text: str) -> markupsafe.Markup:
    """A sentence whose commands, which stand between backticks, are shown as such."""
    pieces = [markupsafe.escape(piece) for piece in printable(text).split("`")]
    if len(pieces) % 2 == 0:
        return markupsafe.escape(printable(text))
    code = markupsafe.Markup("<code>{}</code>")
    return markupsafe.Markup().join(
        code.format(piece) if place % 2 else piece for place, piece in enumerate(pieces)
    )


def _seconds(seconds: float) -> str:
    """A short delay with a tenth of a second, a long one in its two largest units."""
    return f"{seconds:.1f} s" if seconds < 60 else human_duration(timedelta(seconds=seconds))
