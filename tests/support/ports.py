"""Free ports of the loopback interface."""

from __future__ import annotations

import socket


def free_address() -> str:
    """An address with a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"
