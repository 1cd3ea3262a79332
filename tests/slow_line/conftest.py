"""Slow lines for tests, which are skipped where none can be made and SLOW_LINE_REQUIRE=1 is not set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.slow_line.line import LineUnavailableError, MakeLine, SlowLine, slow_line


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None) -> None:
    """The AWS settings of this machine play no part."""


@pytest.fixture
def make_line() -> Iterator[MakeLine]:
    """Makes a line of so many bits per second."""
    with ExitStack() as stack:

        def make(rate: int) -> SlowLine:
            try:
                return stack.enter_context(slow_line(rate))
            except LineUnavailableError as exc:
                if os.environ.get("SLOW_LINE_REQUIRE") == "1":
                    raise
                pytest.skip(f"no slow line: {exc}")

        yield make
