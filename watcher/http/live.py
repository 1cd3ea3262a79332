"""Sends the parts of the status page that change to the browsers that show it, as server-sent events.

One task reads the status for all of them, and only while there are any. The stream is described in the HTML
standard, section "Server-sent events".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import structlog

from watcher.telemetry import RepeatFilter, printable

log = structlog.get_logger()

MAX_STREAMS = 8
"""Browsers that are told of changes; further ones are answered 503 and try again."""

INTERVAL_SECONDS = 1.0
"""Between two looks at the status."""

STREAM_SECONDS = 600.0
"""A stream ends after this time, and the browser opens another one: what has gone away leaves none behind."""

RECONNECT_MS = 3000


class Live:
    """The open streams, all in one event loop. `read` returns the HTML of the page's parts by their names."""

    def __init__(self, read: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._read = read
        self._reported = RepeatFilter()
        self._parts: Mapping[str, str] = {}
        self._tick = asyncio.Event()
        self._streams = 0
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether no further stream may be opened."""
        return self._is_closed or self._streams >= MAX_STREAMS

    def close(self) -> None:
        """End every stream. Called in the event loop."""
        self._is_closed = True
        self._tick.set()

    async def stream(self) -> AsyncIterator[str]:
        """The events of one stream: all parts of the page first, then those that have changed.

        Where none has, a comment is sent, so that a connection that is gone is noticed.
        """
        now = asyncio.get_running_loop().time
        ends_at = now() + STREAM_SECONDS
        sent: Mapping[str, str] = {}
        self._streams += 1
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch())
            yield f"retry: {RECONNECT_MS}\n\n"
            while now() < ends_at:
                await self._tick.wait()
                if self._is_closed:
                    return
                changed = {name: html for name, html in self._parts.items() if sent.get(name) != html}
                sent = self._parts
                yield f"data: {json.dumps(changed)}\n\n" if changed else ": nothing new\n\n"
        finally:
            self._streams -= 1

    async def _watch(self) -> None:
        while self._streams and not self._is_closed:
            try:
                self._parts = await self._read()
            except Exception as exc:  # noqa: BLE001  # the browsers keep what they have
                if self._reported.is_news("live", reason := printable(f"{type(exc).__name__}: {exc}")):
                    log.warning("metrics_unanswered", reason=reason)
            tick, self._tick = self._tick, asyncio.Event()
            tick.set()
            await asyncio.sleep(INTERVAL_SECONDS)
