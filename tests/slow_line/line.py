"""A real slow line: a network namespace whose only way out is limited by the token bucket of tc-tbf(8)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BURST = "4kb"
"""What tbf may send at once; it must hold a packet of the largest size."""
LATENCY = "400ms"
"""How long a packet may wait in tbf's queue before it is dropped: about that of a modem."""


class LineUnavailableError(Exception):
    """This machine cannot make a slow line, with the reason as its message."""


@dataclass(frozen=True, slots=True)
class SlowLine:
    """The near end of a line: `address` is the far end's, for servers; `rate` is in bits per second."""

    namespace: str
    address: str
    rate: int
    device: str

    @property
    def through(self) -> tuple[str, ...]:
        """The command that runs another command at the near end, see ip-netns(8)."""
        return ("ip", "netns", "exec", self.namespace)

    def seconds_for(self, size: int) -> float:
        """The ideal time for `size` bytes: as if the line carried nothing but them."""
        return size * 8 / self.rate

    def set_rate(self, rate: int) -> None:
        """Give the line another rate from now on, in bits per second."""
        _run(*self.through, "tc", "qdisc", "replace", "dev", self.device, "root", *_bucket(rate))


@contextmanager
def slow_line(rate: int) -> Iterator[SlowLine]:
    """A line of `rate` bits per second upwards, and without a limit downwards.

    Raises `LineUnavailableError` where the kernel, the rights or Debian's iproute2 are missing.
    """
    # One process has one line at a time. The address is of RFC 2544's network for such tests.
    name = f"slow{os.getpid()}"
    net = f"198.18.{os.getpid() % 256}"
    line = SlowLine(name, f"{net}.1", rate, "near")
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", line.device, "netns", name)
        _run("ip", "address", "add", f"{line.address}/30", "dev", name)
        _run("ip", "link", "set", name, "up")
        _run("ip", "-n", name, "address", "add", f"{net}.2/30", "dev", line.device)
        _run("ip", "-n", name, "link", "set", line.device, "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        line.set_rate(rate)
        yield line
    finally:
        # The pair of devices goes with the namespace, once nothing runs in it.
        _run("ip", "netns", "delete", name)


def _bucket(rate: int) -> tuple[str, ...]:
    return ("tbf", "rate", f"{rate}bit", "burst", BURST, "latency", LATENCY)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as exc:
        raise LineUnavailableError(f"there is no {command[0]}: install Debian's iproute2") from exc
    except subprocess.CalledProcessError as exc:
        raise LineUnavailableError(f"{' '.join(command)}: {exc.stderr.strip()}") from exc


MakeLine = Callable[[int], SlowLine]
"""Makes a line of so many bits per second."""
