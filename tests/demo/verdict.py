"""The demo's verdict: every object is fetched without credentials and compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from rich import box
from rich.table import Table
from rich.text import Text

from db import Catalog, DatabaseError, State, Upload
from tests.demo.setup import Rendition
from watcher.telemetry.formatting import human_size

_CHUNK = 1 << 20
_FETCH_SECONDS = 30


@dataclass(frozen=True)
class Verdict:
    """What was found about one rendition; without `problems` it is as it should be."""

    rendition: Rendition
    upload: Upload | None
    url: str | None
    problems: tuple[str, ...]


def judge(
    renditions: Iterable[Rendition],
    uploads: dict[str, Upload],
    catalog: Catalog,
    *,
    completed: Path,
    aside: Path,
) -> list[Verdict]:
    """Look at each rendition's ledger row, catalog row, object and local copy."""
    return [
        _judge(
            rendition,
            uploads.get(rendition.path),
            catalog,
            completed / rendition.path,
            aside / rendition.path,
        )
        for rendition in renditions
    ]


def _judge(rendition: Rendition, upload: Upload | None, catalog: Catalog, local: Path, kept: Path) -> Verdict:
    problems = list(_ledger_problems(upload))
    if local.exists() and upload is not None and upload.state is State.RELEASED:
        problems.append("the local copy is still on the disk")
    try:
        url = _published_url(catalog, rendition)
    except (DatabaseError, LookupError) as exc:
        return Verdict(rendition, upload, None, (*problems, str(exc)))
    if (difference := fetch_and_compare(url, kept)) is not None:
        problems.append(difference)
    return Verdict(rendition, upload, url, tuple(problems))


def _ledger_problems(upload: Upload | None) -> Iterable[str]:
    if upload is None:
        yield "the ledger does not know it"
        return
    if upload.state is not State.RELEASED:
        yield f"it is {upload.state}: {upload.last_error or 'no error is recorded'}"
    for fact in ("confirmed_by", "verified_at", "published_at", "released_at"):
        if getattr(upload, fact) is None:
            yield f"{fact} is not recorded"


def _published_url(catalog: Catalog, rendition: Rendition) -> str:
    urls = [row.url for row in catalog.rows(rendition.video_id) if row.quality == rendition.quality]
    if len(urls) != 1:
        raise LookupError(f"the catalog has {len(urls)} rows for it")
    return urls[0]


def fetch_and_compare(url: str, kept: Path) -> str | None:
    """Fetch the URL without credentials; returns in what it differs from the copy kept aside, if it does."""
    if not url.startswith("http"):
        return f"{url} is not a public URL"
    opener = build_opener(ProxyHandler({}))
    try:
        with kept.open("rb") as expected, opener.open(url, timeout=_FETCH_SECONDS) as answer:
            return _first_difference(answer, expected)
    except FileNotFoundError:
        return "no copy was kept aside"
    except (URLError, HTTPException, TimeoutError, ConnectionError) as exc:
        return f"it cannot be fetched: {exc}"


def _first_difference(answer: IO[bytes], expected: IO[bytes]) -> str | None:
    place = 0
    while True:
        got, want = answer.read(_CHUNK), expected.read(_CHUNK)
        if got != want:
            return f"it differs from the file within {_CHUNK} bytes after byte {place}"
        if not want:
            return None
        place += len(want)


def table_of(verdicts: Iterable[Verdict]) -> Table:
    """One line a rendition. Times are in seconds since the daemon found the file."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in (
        "Quality",
        "Size",
        "Confirmed by",
        "Confirmed",
        "Published",
        "Released",
        "Fetched",
        "URL",
    ):
        is_number = heading in {"Size", "Confirmed", "Published", "Released"}
        table.add_column(heading, no_wrap=True, justify="right" if is_number else "left")
    for verdict in verdicts:
        table.add_row(*_cells(verdict))
    return table


def _cells(verdict: Verdict) -> list[str | Text]:
    upload = verdict.upload
    size = human_size(upload.size) if upload else "-"
    confirmed_by = (upload and upload.confirmed_by) or "-"
    times = [_after(upload, stamp) for stamp in ("verified_at", "published_at", "released_at")]
    good = not verdict.problems
    mark = Text("identical", style="green") if good else Text("NOT AS IT SHOULD BE", style="bold red")
    return [verdict.rendition.quality, size, confirmed_by, *times, mark, Text(verdict.url or "-")]


def _after(upload: Upload | None, stamp: str) -> str:
    time = getattr(upload, stamp, None)
    return f"{(time - upload.discovered_at).total_seconds():.1f} s" if upload and time else "-"
