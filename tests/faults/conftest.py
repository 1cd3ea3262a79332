"""Fixtures of the fault tests."""

from __future__ import annotations

import pytest

from tests.support.harness import MakeSettings
from watcher.settings.model import Settings


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None, sigio_ignored: None) -> None:
    """The AWS settings of this machine play no part, and a broken lease kills nothing."""


@pytest.fixture
def chosen(settings: MakeSettings) -> Settings:
    """A daemon with a catalog of its own, which no later scan helps."""
    return settings(RESCAN_SECONDS=86400)
