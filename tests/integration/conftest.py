"""Fixtures of the integration tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.catalog_rows import CatalogRows
from tests.support.harness import Harness, MakeHarness


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None, sigio_ignored: None) -> None:
    """The AWS settings of this machine play no part, and a broken lease kills nothing."""


@pytest.fixture
def make_catalog_harness(make_harness: MakeHarness, rows: CatalogRows) -> MakeHarness:
    """Opens harnesses whose catalog is the compressor's."""

    def open_one(**changes: Any) -> Harness:
        return make_harness(**{"DATABASE_URL": rows.url, "CATALOG": "compressor", **changes})

    return open_one
