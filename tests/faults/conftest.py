"""What the fault tests share with the integration tests."""

from __future__ import annotations

from tests.integration.conftest import (  # noqa: F401  # fixtures
    _no_aws_environment,
    make_harness,
    proxy,
    rows,
    s3,
    server,
    settings,
    video,
)
from tests.unit.watcher.conftest import _sigio_is_ignored, media, place  # noqa: F401  # fixtures
