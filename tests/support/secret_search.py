"""No test may bring the secrets of its settings to light: everything that the tests produce is searched.

That is what each test printed and logged, what daemons and commands said, and what lies beside the videos.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from urllib.parse import quote

import pytest

from tests.support.s3_server import SECRET_ACCESS_KEY

LARGEST_FILE = 64 << 20
WRITTEN_BY_TESTS = (".env", "environment")
"""Endings of files that hold a secret because a test has put it there."""


def shapes_of(values: Iterable[str]) -> frozenset[bytes]:
    """Every way in which secrets may stand in a text: as they are, and quoted for a URL."""
    return frozenset(
        shape.encode() for value in values for shape in (value, quote(value, safe=""), quote(value))
    )


SECRETS = shapes_of([SECRET_ACCESS_KEY])
"""The key that the tests' daemons, commands and stores sign with."""


def ensure_untold(*texts: str | bytes, secrets: frozenset[bytes] = SECRETS) -> None:
    """None of the secrets is in what was written, in no shape."""
    for text in texts:
        content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        told = [shape for shape in secrets if shape in content]
        assert not told, f"a secret was told: {content.decode('utf-8', 'replace')}"


def files_below(directory: str) -> Iterator[bytes]:
    """The contents of the files in a directory, but for those that can only be videos by their size."""
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path) and os.path.getsize(path) <= LARGEST_FILE:
                with open(path, "rb") as file:
                    yield file.read()


def ensure_left_untold(place: str) -> None:
    """Nothing that was left in a test's directory, beside the videos, tells a secret."""
    for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name != "completed":
                ensure_untold(*files_below(entry.path))
        elif entry.is_file(follow_symlinks=False) and not entry.name.endswith(WRITTEN_BY_TESTS):
            with open(entry.path, "rb") as file:
                ensure_untold(file.read(LARGEST_FILE))


def judge(report: pytest.TestReport) -> None:
    """Let a test fail whose output tells a secret."""
    try:
        ensure_untold(*(text for _, text in report.sections))
    except AssertionError as error:
        report.outcome = "failed"
        report.longrepr = str(error)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Search what the test printed and logged so far."""
    report = yield
    judge(report)
    return report
