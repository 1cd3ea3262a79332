"""Structured logging to standard error: one line per event, with a stable name and bound context."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections import OrderedDict
from contextlib import nullcontext
from functools import partial
from typing import Any, TextIO

import structlog

from db import Upload
from watcher.telemetry.formatting import printable
from watcher.telemetry.journal import is_journal, prioritized
from watcher.telemetry.redaction import redact

_PROSE = frozenset({"error", "exception", "hint", "message", "reason", "stack"})
"""The keys of a log line under which the words of another library may stand."""


def configure_logging(level: str, log_format: str | None, stream: TextIO | None = None) -> None:
    """Send the log lines of this program and its libraries to `stream` (default: standard error).

    `log_format` is ``json``, ``console``, or None for ``console`` on a terminal and ``json`` elsewhere. In
    systemd's journal lines have their priority, and no time beside the journal's own.
    """
    to_journal = stream is None and is_journal()
    is_terminal = (stream or sys.stderr).isatty()
    console = (log_format or ("console" if is_terminal else "json")) == "console"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        *([] if to_journal else [structlog.processors.TimeStamper(fmt="iso", utc=True)]),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: list[structlog.typing.Processor] = (
        [
            _printable_values,
            structlog.dev.ConsoleRenderer(
                colors=is_terminal, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if console
        else [_event_first, _as_json]
    )
    # A plain traceback: the pretty one shows local variables, which include credentials.
    rendering: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        _without_secrets,
        *renderer,
    ]
    handler = logging.StreamHandler(stream or _StandardError())
    formatter = _JournalFormatter if to_journal else structlog.stdlib.ProcessorFormatter
    handler.setFormatter(
        formatter(
            foreign_pre_chain=[*shared, _library_event],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    # Of four lines a file, each would pass through two records of `logging` and its locks.
    lines = _Lines(handler, to_journal=to_journal)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Unless captured, warnings are printed unescaped, and a library may name files in them.
    logging.captureWarnings(True)
    for chatty in ("boto3", "botocore", "s3transfer", "urllib3", "peewee", "watchdog"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))


class _Lines:
    """Writes rendered lines where a handler writes those of libraries, with its lock."""

    def __init__(self, handler: logging.StreamHandler[Any], *, to_journal: bool) -> None:
        self._handler = handler
        self._to_journal = to_journal
        self.debug = partial(self._write, logging.DEBUG)
        self.info = partial(self._write, logging.INFO)
        self.warning = partial(self._write, logging.WARNING)
        self.error = partial(self._write, logging.ERROR)
        self.critical = partial(self._write, logging.CRITICAL)

    def _write(self, level: int, line: str) -> None:
        handler = self._handler
        with handler.lock or nullcontext():
            try:
                handler.stream.write((prioritized(line, level) if self._to_journal else line) + "\n")
                handler.flush()
            except Exception:  # noqa: BLE001 - as `logging`: a line that cannot be written must not end the work
                handler.handleError(logging.LogRecord("", level, "", 0, line, None, None))


class _JournalFormatter(structlog.stdlib.ProcessorFormatter):
    """Gives every line its priority."""

    def format(self, record: logging.LogRecord) -> str:
        return prioritized(super().format(record), record.levelno)


def _library_event(
    logger: logging.Logger, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del name
    record = event.get("_record")
    event["message"] = event["event"]
    event["library"] = record.name if record is not None else getattr(logger, "name", "")
    event["event"] = "library_message"
    return event


def _without_secrets(
    logger: logging.Logger, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger, name
    event.update({key: redact(value) for key, value in event.items() if key in _PROSE and type(value) is str})
    return event


def _event_first(
    logger: logging.Logger, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger, name
    return {key: event.pop(key) for key in ("event", "level") if key in event} | dict(event)


_ENCODER = json.JSONEncoder(default=repr)
"""Made once: `json.dumps` with options makes one for every line."""


def _as_json(logger: logging.Logger, name: str, event: structlog.typing.EventDict) -> str:
    del logger, name
    return _ENCODER.encode(event)


def _printable_values(
    logger: logging.Logger, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger, name
    for key, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if key in {"exception", "stack"} else [value]
            event[key] = "\n".join(map(printable, lines))
    return event


class _StandardError(io.TextIOBase):
    """The current standard error, which progress bars replace while they are shown."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class RepeatFilter:
    """Remembers messages, so that repeated scans log each only once; bounded and thread-safe."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, subject: str, message: str) -> bool:
        """Whether the message about the subject is remembered."""
        with self._lock:
            return (subject, message) in self._seen

    def is_news(self, subject: str, message: str) -> bool:
        """Whether the message about the subject is not remembered; it is from now on."""
        with self._lock:
            is_news = (subject, message) not in self._seen
            self._seen[subject, message] = None
            self._seen.move_to_end((subject, message))
            if len(self._seen) > self._size:
                self._seen.popitem(last=False)
            return is_news


def row_context(upload: Upload) -> dict[str, object]:
    """Return the context that every log line about an upload is bound to."""
    return {
        "upload": upload.id,
        "video_id": upload.video_id,
        "quality": upload.quality,
        "path": upload.path,
    }
