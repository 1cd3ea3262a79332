"""Removes secrets from prose, because the messages of other libraries quote what they were given.

Known are the values of the secret settings, in every form in which a message may hold them: as they are,
percent-encoded, escaped, and in the pieces that a URL parser takes a password for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote

MASK = "********"
MIN_PIECE = 6
"""Shorter pieces of a secret tell too little, and occur by chance."""
MIN_DISTINCTIVE = 12
"""Shorter secrets are masked only as a whole word: they may be a part of another one."""
_URL_DELIMITERS = re.compile(r"[@:/?#\s]+")


class Redactor:
    """Masks the secrets that it has learned. Safe for threads."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, secrets: Iterable[str], public: Iterable[str] = ()) -> None:
        """Mask these secrets, too, from now on: those before may still be in use.

        A value that is `public`, too, stays: masking the name of a user whose password is the same would
        hide what a message is about and reveal the password.
        """
        self._forms |= {form for secret in secrets for form in _forms(secret)} - {"", *public}
        longest_first = sorted(self._forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(_regex, longest_first))) if longest_first else None

    def forget(self) -> None:
        """Mask nothing until `learn` is called again."""
        self._forms.clear()
        self._pattern = None

    def __call__(self, text: str) -> str:
        """The text without any of the secrets."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)


redact = Redactor()
"""The redactor of the process, which learns from the settings."""


def _forms(secret: str) -> Iterator[str]:
    for value in {secret, secret.strip(), unquote(secret)}:
        yield from (
            value,
            quote(value, errors="replace"),
            quote(value, safe="", errors="replace"),
            repr(value)[1:-1],
        )
        yield from (piece for piece in _URL_DELIMITERS.split(value) if len(piece) >= MIN_PIECE)


def _regex(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= MIN_DISTINCTIVE else rf"(?<!\w){escaped}(?!\w)"
