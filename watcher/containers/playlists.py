"""The files that a playlist names: HLS (RFC 8216) and DASH (ISO/IEC 23009-1).

A playlist and its segments are a package: a player fetches each segment under the name that the playlist has.
"""

import codecs
import html
import itertools
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

HLS_EXTENSIONS = frozenset({".m3u8", ".m3u"})
DASH_EXTENSIONS = frozenset({".mpd"})

MAX_NAMES = 50_000
"""Most names that are read from a playlist: more than a day of segments of two seconds."""
_MAX_PATTERNS = 50
_MAX_VARIABLES = 3
"""Of a pattern; one with more would take long to match."""
_MAX_DEPTH = 4
"""How many of the last components of a URL can be the path of a file below the playlist's directory."""

_SERIES_EXTENSIONS = frozenset({".ts", ".m2ts", ".m4s"})
"""Of a series of such segments, a live playlist names the last ones only."""

_HLS_ATTRIBUTE = re.compile(r'URI="([^"]*)"')
_HLS_VARIABLE = re.compile(r"\{\$[\w-]+\}")
_DASH_NAME = re.compile(
    r"""\b(?:media|initialization|sourceURL|index)\s*=\s*(?:"([^"]*)"|'([^']*)')"""
    r"""|<(?:\w+:)?BaseURL\b[^>]*>([^<]*)<"""
)
_DASH_VARIABLE = re.compile(r"\$(?:(RepresentationID)|Number|Time|Bandwidth|SubNumber|)(?:%0\d+d)?\$")
_ABOVE = re.escape("../")
_SCHEME = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*:/*(?=/)")


@dataclass(frozen=True, slots=True)
class PlaylistNames:
    """The names in a playlist, in Unicode's normal form C: paths, series of segments, and patterns."""

    paths: frozenset[str]
    series: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]
    is_dash: bool
    above: tuple[str, ...]
    """The paths that lead out of the playlist's own directory."""

    def __len__(self) -> int:
        return len(self.paths) + len(self.series) + len(self.patterns)

    def include(self, relative: str) -> bool:
        """Whether the playlist names the file at a path relative to its own directory, which may be above."""
        path = unicodedata.normalize("NFC", relative)
        series, patterns = _series(path), self.patterns
        # A name in a DASH manifest may be relative to a BaseURL, which is relative to the manifest.
        ends = _ends(path) if self.is_dash else {path}
        if path.startswith("../"):
            bases = [f"{base}/" for base in self.above if self.is_dash and path.startswith(f"{base}/")]
            ends = {path, *(path.removeprefix(base) for base in bases)}
            patterns = tuple(pattern for pattern in patterns if _ABOVE in pattern.pattern)
        return (
            not ends.isdisjoint(self.paths)
            or (series is not None and series in self.series)
            or any(pattern.fullmatch(path) for pattern in patterns)
        )


def is_playlist(name: str) -> bool:
    """Whether a file is a playlist, by the extension of its name in any case."""
    return posixpath.splitext(name)[1].lower() in HLS_EXTENSIONS | DASH_EXTENSIONS


def names_in(content: bytes, name: str) -> PlaylistNames:
    """The names in the content of a playlist that is called `name`, `MAX_NAMES` of them at most.

    A file `.m3u` names none unless it has a tag of HLS: others are lists of whole files.
    """
    text = _decoded(content)
    extension = posixpath.splitext(name)[1].lower()
    paths: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    if extension == ".m3u" and "#EXT-X-" not in text:
        text = ""
    is_dash = extension in DASH_EXTENSIONS
    variable = _DASH_VARIABLE if is_dash else _HLS_VARIABLE
    for reference in _dash_references(text) if is_dash else _hls_references(text):
        if any(found[0] != "$$" for found in variable.finditer(reference)):
            if len(patterns) < _MAX_PATTERNS:
                patterns.append(_pattern(reference, variable))
            continue
        for path in _paths(reference.replace("$$", "$") if is_dash else reference):
            paths.update(_ends(path.lstrip("/")) if path.startswith("/") else {path})
        if len(paths) >= MAX_NAMES:
            break
    series = frozenset(filter(None, map(_series, paths)))
    above = tuple(sorted(path for path in paths if f"{path}/".startswith("../")))
    return PlaylistNames(frozenset(paths), series, tuple(patterns), is_dash, above)


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _hls_references(text: str) -> Iterator[str]:
    for line in re.split(r"[\r\n]+", text):
        if line.startswith("#"):
            yield from _HLS_ATTRIBUTE.findall(line)
        elif line.strip():
            yield line.strip()


def _dash_references(text: str) -> Iterator[str]:
    for found in _DASH_NAME.finditer(text):
        yield html.unescape(found[1] or found[2] or found[3] or "").strip()


def _paths(reference: str) -> set[str]:
    """The paths that a reference may mean: encoded or not, with or without what may be its query.

    One that is absolute begins with a slash.
    """
    spellings = {reference, re.split("[?#]", reference, maxsplit=1)[0]}
    spellings |= {unquote(spelling, errors="surrogateescape") for spelling in spellings}
    spellings |= {spelling.replace("\\", "/") for spelling in spellings}
    paths = {
        unicodedata.normalize("NFC", posixpath.normpath(_SCHEME.sub("", spelling))) for spelling in spellings
    }
    return paths - {".", "/"}


def _ends(path: str) -> set[str]:
    """A path and those of its last components."""
    parts = path.split("/")
    return {"/".join(parts[-count:]) for count in range(1, min(len(parts), _MAX_DEPTH) + 1)}


def _series(path: str) -> str | None:
    """The name of the series that a segment belongs to by the number at its end; None for any other file."""
    stem, extension = posixpath.splitext(path)
    base = stem.rstrip("0123456789")
    if extension.lower() not in _SERIES_EXTENSIONS or base == stem:
        return None
    return f"{base}\0{extension}"


def _pattern(reference: str, variable: re.Pattern[str]) -> re.Pattern[str]:
    """The pattern of the paths that a reference with variables names, below any directory."""
    path = posixpath.normpath(re.split("[?#]", _SCHEME.sub("", reference), maxsplit=1)[0])
    found = [match for match in variable.finditer(path) if match[0] != "$$"]
    if len(found) > _MAX_VARIABLES:
        middle = [".*"]
    else:
        middle = []
        for match, following in itertools.zip_longest(found, found[1:]):
            middle.append("[^/]+" if variable is _HLS_VARIABLE or match[1] else r"\d+")
            if following is not None:
                middle.append(_literal(path[match.end() : following.start()]))
    begin, end = path[: found[0].start()], path[found[-1].end() :]
    return re.compile("(?:.*/)?" + _literal(begin.lstrip("/")) + "".join(middle) + _literal(end))


def _literal(text: str) -> str:
    return re.escape(unicodedata.normalize("NFC", unquote(text.replace("$$", "$"))))
