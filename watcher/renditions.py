"""Renditions: the mapping between paths, object keys and URLs."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

from db import Upload
from storage import QUALITIES, content_type, has_control_characters, key_of_url, object_key, public_url

ORIGINAL = "original"
TEMPLATE_HELP = (
    "{video_id}, {quality} and {ext} once each, {filename} at most once, {ext} last, parts separated by /"
)

_UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_ANY_UUID = re.compile(_UUID)
_HEIGHT = r"\d{3,5}[pi]\d{0,3}"
"""A quality as encoders and players write it: 720p, 1080i, 720p60."""
_WORDS = "(?ai:{})"
"""A pattern whose ASCII letters, and no others, match in either case: the Kelvin sign is no k."""
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_FILENAME_WHEN_TEMPLATE_HAS_NONE = "video"


class TemplateError(ValueError):
    """A path template that cannot name a rendition."""


@dataclass(frozen=True, slots=True)
class Rendition:
    """One quality of one video: ``filename`` is the source's name, extension included, quality not."""

    video_id: str
    filename: str
    quality: str


class IgnoredKind(StrEnum):
    """Why a file is ignored, in a word."""

    DIRECTORY = "directory"
    """No part of its path is a UUID."""
    EXTENSION = "extension"
    NAME = "name"
    """No name that S3 and the database can hold."""
    PATTERN = "pattern"
    PLAYLIST = "playlist"
    """A playlist names it."""
    QUALITY = "quality"
    TEMPLATE = "template"


@dataclass(frozen=True, slots=True)
class Ignored:
    """A path that names no rendition; `reason` completes the sentence "it is ignored because"."""

    reason: str
    kind: IgnoredKind


def check_template(template: str) -> None:
    """Raise `TemplateError` unless a path's video, quality and extension can be read by the template."""
    names = _PLACEHOLDER.findall(template)
    if unknown := sorted(set(names) - {"video_id", "filename", "quality", "ext"}):
        raise TemplateError(f"{{{unknown[0]}}} is not a placeholder")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise TemplateError(f"{{{repeated[0]}}} occurs more than once")
    if set("{}") & set(_PLACEHOLDER.sub("", template)):
        raise TemplateError("it contains a brace outside a placeholder")
    for name in ("video_id", "quality", "ext"):
        if name not in names:
            raise TemplateError(f"{{{name}}} is missing")
    if not template.endswith("{ext}"):
        raise TemplateError("it does not end with {ext}")
    if any(part in {"", ".", ".."} for part in template.split("/")):
        raise TemplateError("it contains an empty, '.' or '..' component")
    if "}{" in template.replace("}{ext}", "}"):
        raise TemplateError("two placeholders are adjacent")


class PathTemplate:
    """Classifies relative paths by name, and by the playlists that name them.

    A name without a known quality that ends in something like one is ignored: it is more probably a rendition
    than one of several originals. With `rows_decide`, the compressor's rows tell them apart, and it is an
    original until its row says otherwise. `package_reason` returns why a file belongs to a package for
    streaming, None if it does not: see `watcher.filesystem.packages`.
    """

    def __init__(
        self,
        template: str,
        *,
        qualities: Iterable[str],
        extensions: Iterable[str],
        ignore: Iterable[str],
        rows_decide: bool,
        package_reason: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        check_template(template)
        self._template = template
        self._qualities = frozenset(qualities)
        self._spellings = {word.lower(): word for word in sorted(self._qualities, reverse=True)}
        self._extensions = frozenset(extension.lower() for extension in extensions)
        self._ignore = tuple(
            (pattern, re.compile(fnmatch.translate(normal_form(pattern))).match) for pattern in ignore
        )
        self._rows_decide = rows_decide
        self._package_reason = package_reason
        self._pattern = _compile(template, _WORDS.format(_any_of(self._qualities)))
        self._bare_pattern = _compile("{video_id}/{filename}{ext}", "")
        like_a_quality = _WORDS.format(
            rf"{_HEIGHT}|\d{{1,2}}k|{_any_of(self._qualities - {ORIGINAL}) or _HEIGHT}"
        )
        self._pattern_of_others = _compile(template, like_a_quality)
        # At the end of a name, a height needs no separator: clip720p.
        self._ends_in_quality = re.compile(
            rf"((?<![^\W_]){like_a_quality}|(?<!\d){_WORDS.format(_HEIGHT)})\Z"
        )

    def classify(self, path: str) -> Rendition | Ignored:
        """The rendition that the file at a path relative to the watched directory is."""
        found = self.classify_name(path)
        if isinstance(found, Rendition) and (reason := self._package_reason(path)):
            return Ignored(reason, IgnoredKind.PLAYLIST)
        return found

    def classify_name(self, path: str) -> Rendition | Ignored:
        """The rendition that a path names, without access to the file system."""
        if ignored := self._unusable(path):
            return ignored
        if match := self._pattern.fullmatch(path):
            found = match.groupdict()
            base = found.get("filename") or _FILENAME_WHEN_TEMPLATE_HAS_NONE
            return Rendition(found["video_id"].lower(), base + found["ext"], self._quality(found["quality"]))
        if match := self._bare_pattern.fullmatch(path):
            if ORIGINAL not in self._qualities:
                reason = f"it would be an {ORIGINAL}, which is not in QUALITIES"
                return Ignored(reason, IgnoredKind.QUALITY)
            base = without_quality(match["filename"], ORIGINAL) or match["filename"]
            if base == match["filename"] and (word := self._like_a_quality(path, base)):
                return Ignored(self._other_quality(word), IgnoredKind.QUALITY)
            return Rendition(match["video_id"].lower(), base + match["ext"], ORIGINAL)
        kind = IgnoredKind.TEMPLATE if _ANY_UUID.search(path) else IgnoredKind.DIRECTORY
        return Ignored(f"it does not fit PATH_TEMPLATE {self._template}", kind)

    def path_of(self, rendition: Rendition) -> str:
        """The path that a rendition's file most likely had."""
        base, ext = os.path.splitext(rendition.filename)
        by_template = self._template.format(
            video_id=rendition.video_id, filename=base, quality=rendition.quality, ext=ext
        )
        bare = f"{rendition.video_id}/{rendition.filename}"
        is_bare = rendition.quality == ORIGINAL and self.classify_name(bare) == rendition
        return bare if is_bare else by_template

    def is_original(self, path: str) -> bool:
        """Whether a path names an original."""
        rendition = self.classify_name(path)
        is_named = isinstance(rendition, Rendition) and rendition.quality == ORIGINAL
        return is_named and self._package_reason(path) is None

    def ignores(self, path: str) -> str | None:
        """The ignore pattern that a component of a path matches, if any; the path may be a directory's."""
        for part in path.split("/"):
            name = normal_form(part)
            for pattern, matches in self._ignore:
                if matches(name):
                    return pattern
        return None

    def _like_a_quality(self, path: str, base: str) -> str | None:
        """The word in a name without a known quality that makes it a rendition rather than an original."""
        if self._rows_decide:
            return None
        if match := self._pattern_of_others.fullmatch(path):
            return match["quality"]
        found = self._ends_in_quality.search(base)
        return found[0] if found else None

    def _quality(self, word: str) -> str:
        """The quality that a word names, as QUALITIES has it; two that differ only in case are two."""
        return word if word in self._qualities else self._spellings[word.lower()]

    def _other_quality(self, word: str) -> str:
        if word.lower() in self._spellings:
            return f"it has the quality {word} where PATH_TEMPLATE {self._template} has none"
        return f"it has {word}, which looks like a quality and is not in QUALITIES"

    def _unusable(self, path: str) -> Ignored | None:
        try:
            path.encode()
        except UnicodeEncodeError:
            return Ignored("its name is not valid UTF-8", IgnoredKind.NAME)
        if has_control_characters(path):
            return Ignored("its name contains control characters", IgnoredKind.NAME)
        if pattern := self.ignores(path):
            return Ignored(f"it matches {pattern} of IGNORE_PATTERNS", IgnoredKind.PATTERN)
        extension = os.path.splitext(path)[1]
        if extension.lower() not in self._extensions:
            reason = f"its extension {extension or '(none)'} is not in VIDEO_EXTENSIONS"
            return Ignored(reason, IgnoredKind.EXTENSION)
        return None


def _any_of(words: Iterable[str]) -> str:
    """A pattern for any of the words, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


def _compile(template: str, quality: str) -> re.Pattern[str]:
    """The pattern of the paths of a template, in which `quality` is the pattern of qualities."""
    groups = {
        "video_id": rf"(?P<video_id>{_UUID})",
        "filename": r"(?P<filename>[^/]+)",
        "quality": rf"(?P<quality>{quality})",
        "ext": r"(?P<ext>\.[^./]+)",
    }
    pieces = _PLACEHOLDER.split(template)
    return re.compile(
        "".join(groups[piece] if place % 2 else _in_any_form(piece) for place, piece in enumerate(pieces))
    )


def _in_any_form(text: str) -> str:
    """The pattern of a text in either normal form of Unicode."""
    forms = {text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))}
    return f"(?:{_any_of(forms)})"


@dataclass(frozen=True, slots=True)
class Naming:
    """Makes object keys and URLs: `prefix` of the keys, `public_base` and `local_base` of the URLs.

    `qualities` are those that a key may have. Once `is_virtual` is true, as for a server that turns out to
    refuse the other style, public URLs start with `virtual_base` if there is one.
    """

    prefix: str
    public_base: str
    local_base: str
    qualities: tuple[str, ...] = QUALITIES
    virtual_base: str | None = None
    is_virtual: Callable[[], bool] = bool

    @property
    def key_prefix(self) -> str:
        """What every object key begins with."""
        prefix = self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""

    def key(self, rendition: Rendition) -> str:
        """The object key; raises `storage.KeyTooLongError` over S3's 1,024 bytes."""
        video_id, filename, quality = rendition.video_id, rendition.filename, rendition.quality
        return object_key(self.prefix, video_id, filename, quality, qualities=self.qualities)

    def public_url(self, upload: Upload) -> str:
        """The public URL of an upload's object."""
        return self.public_url_of(upload.object_key)

    def public_url_of(self, key: str) -> str:
        """The public URL of an object key."""
        base = self.virtual_base if self.virtual_base is not None and self.is_virtual() else None
        return public_url(base or self.public_base, key)

    def key_of(self, url: str) -> str | None:
        """The key in a public URL, in any percent-encoding; None for any other URL."""
        key = key_of_url(self.public_base, url)
        if key is None and self.virtual_base is not None:
            key = key_of_url(self.virtual_base, url)
        return key

    def local_url(self, upload: Upload) -> str:
        """The URL of the local copy."""
        return f"{self.local_base}/{quote(upload.path)}"

    @staticmethod
    def content_type(upload: Upload) -> str:
        """The object's media type, by the extension of its name."""
        return content_type(upload.filename)


def rendition_of(video_id: str, path: str, quality: str) -> Rendition:
    """The rendition of a file whose quality is known from elsewhere than its ambiguous name.

    `clip_720p.mp4` can be a rendition of `clip.mp4`, or an original of that name.
    """
    name = posixpath.basename(path)
    stem, extension = posixpath.splitext(name)
    base = without_quality(stem, quality)
    if quality == ORIGINAL or not base:
        return Rendition(video_id, name, quality)
    return Rendition(video_id, base + extension, quality)


def without_quality(stem: str, quality: str) -> str:
    """A name without its extension and the suffix of a quality, whose ASCII letters may be in either case."""
    suffix = f"_{quality}"
    end = stem[-len(suffix) :]
    return stem[: -len(suffix)] if end.isascii() and end.lower() == suffix.lower() else stem


def normal_form(name: str) -> str:
    """A name in the form in which names are compared: Unicode's NFC (UAX 15). Keys keep the bytes on disk."""
    return unicodedata.normalize("NFC", name)
