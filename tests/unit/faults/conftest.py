"""What the tests of the fault tests' tools share with the integration tests."""

from __future__ import annotations

from tests.integration.conftest import _no_aws_environment, s3, server, video  # noqa: F401  # fixtures
from tests.unit.watcher.conftest import _sigio_is_ignored, media, place  # noqa: F401  # fixtures
