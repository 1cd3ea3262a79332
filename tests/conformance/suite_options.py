"""The options of the suite, from environment variables."""

from __future__ import annotations

import os
from typing import Final

BACKENDS: Final = ("moto", "localstack", "rclone", "ceph", "endpoint")
"""All there are: four that come along, and any server that is named."""


def chosen_backends() -> list[str]:
    """`CONFORMANCE_BACKENDS`, by default moto alone; a server named by its endpoint is always one of them."""
    words = os.environ.get("CONFORMANCE_BACKENDS", "moto").replace(",", " ").split()
    if unknown := set(words) - set(BACKENDS):
        raise ValueError(f"CONFORMANCE_BACKENDS: {', '.join(sorted(unknown))} is none of {BACKENDS}")
    if os.environ.get("CONFORMANCE_ENDPOINT_URL"):
        words.append("endpoint")
    return [name for name in BACKENDS if name in words]


def is_required(name: str) -> bool:
    """`CONFORMANCE_REQUIRE_NAME`: a server that cannot run is a failure and no reason to skip."""
    return bool(os.environ.get(f"CONFORMANCE_REQUIRE_{name.upper()}"))
