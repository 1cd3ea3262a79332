"""Every row of twenty videos ends as it must, whenever the daemon starts, wherever the compressor is slow."""

from __future__ import annotations

import pytest

from tests.beside.platform import Platform
from tests.beside.plays import play
from tests.compressor.steps import Step

pytestmark = pytest.mark.timeout(300)

SLOW_SECONDS = 0.4


@pytest.mark.parametrize("start", ["before", "in the middle", "after"])
def test_every_row_ends_as_it_must_whenever_the_daemon_starts(platform: Platform, start: str) -> None:
    play(platform, start=start)


@pytest.mark.parametrize("step", list(Step))
def test_every_row_ends_as_it_must_wherever_the_compressor_is_slow(platform: Platform, step: Step) -> None:
    play(platform, "--delay", f"{step.value}={SLOW_SECONDS}", start="before")
