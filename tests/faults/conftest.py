"""Fixtures of the fault tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None, sigio_ignored: None) -> None:
    """The AWS settings of this machine play no part, and a broken lease kills nothing."""
