"""The sink as a process: see `benchmarks/sink/server.c`."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks import toolbox


@dataclass(frozen=True)
class Sink:
    """A running sink. `certificate` is empty where it speaks plain HTTP."""

    url: str
    certificate: str

    def stats(self) -> dict[str, Any]:
        """What it has counted since the last reset; connections and CPU seconds since its start."""
        return self._ask("stats")

    def reset(self) -> None:
        """Forget every object, upload and count."""
        self._ask("reset", b"")

    def set_line(self, *, rtt_ms: float = 0, bytes_per_second: int = 0) -> None:
        """Set the line of connections that are opened from now on; 0 stands for no delay and no limit.

        Each answer is delayed by a round trip, and the first request by those of TCP's and TLS's handshakes.
        """
        self._ask(f"line?rtt_us={rtt_ms * 1000:.0f}&bytes_per_second={bytes_per_second}", b"")

    def _ask(self, action: str, data: bytes | None = None) -> dict[str, Any]:
        context = ssl.create_default_context(cafile=self.certificate) if self.certificate else None
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"{self.url}/_sink/{action}", data, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def running_sink(*, tls: bool = True, etag: str = "", threads: int = 2) -> Iterator[Sink]:
    """A sink on a free port while the block lasts; with `etag="md5"` every ETag is an MD5, which costs time.

    Raises `toolbox.UnavailableError`.
    """
    program = toolbox.build_sink()
    command = [program, "--threads", str(threads), *(("--etag", etag) if etag else ())]
    certificate = key = ""
    if tls:
        certificate, key = toolbox.make_certificate()
        command += ["--tls", certificate, key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise toolbox.UnavailableError("the sink ended before it listened")
            yield Sink(f"http{'s' if tls else ''}://127.0.0.1:{port}", certificate)
        finally:
            process.kill()
