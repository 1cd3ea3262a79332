"""Log lines: one per event, without raw control characters, for this program and its libraries."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watcher.telemetry.journal import is_journal
from watcher.telemetry.logging import RepeatFilter, configure_logging
from watcher.telemetry.redaction import MASK, redact

NASTY = "two\nlines \x1b[2J \x07 \x7f \x9b \u2028 \udcff"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    named = ("boto3", "botocore", "s3transfer", "urllib3", "peewee", "watchdog")
    levels = {name: logging.getLogger(name).level for name in named}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Log:
    """A stream that is, or is not, a terminal."""

    def __init__(self, *, level: str = "INFO", log_format: str | None, on_terminal: bool = False) -> None:
        self.stream = io.StringIO()
        if on_terminal:
            self.stream.isatty = lambda: True  # type: ignore[method-assign]
        configure_logging(level, log_format, self.stream)
        self.log = structlog.get_logger()

    def text(self) -> str:
        return self.stream.getvalue()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


def raise_and_log(log: Log, message: str) -> None:
    credentials = "s3cr3t-that-nobody-may-see".upper()
    try:
        fail(message, len(credentials))
    except RuntimeError:
        log.log.exception("internal_error")


def fail(message: str, number: int) -> None:
    raise RuntimeError(message, number)


def test_json_has_one_object_a_line_with_event_level_time_and_what_is_bound() -> None:
    log = Log(log_format="json")
    with structlog.contextvars.bound_contextvars(video_id="v", quality="720p"):
        log.log.bind(path="v/été_720p.mp4").info("upload_confirmed", size=5)
    (event,) = log.events()
    assert event["timestamp"].endswith("Z")
    del event["timestamp"]
    assert event == {
        "event": "upload_confirmed",
        "level": "info",
        "video_id": "v",
        "quality": "720p",
        "path": "v/été_720p.mp4",
        "size": 5,
    }


@pytest.mark.parametrize(
    ("log_format", "on_terminal", "is_json"),
    [(None, False, True), (None, True, False), ("json", True, True), ("console", False, False)],
)
def test_unset_the_format_is_for_people_on_a_terminal_and_for_programs_elsewhere(
    log_format: str | None, on_terminal: bool, is_json: bool
) -> None:
    log = Log(log_format=log_format, on_terminal=on_terminal)
    log.log.info("something_happened", size=5)
    assert log.text().startswith("{") is is_json
    assert "something_happened" in log.text()


@pytest.mark.parametrize("log_format", ["json", "console"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(st.characters()), st.just(NASTY)))
def test_no_control_character_is_ever_written_raw(log_format: str, text: str) -> None:
    log = Log(log_format=log_format)
    log.log.warning(f"event{text}", path=text, several=[text, {text: text}], failure=OSError(text))
    logging.getLogger("some.library").warning("it says %s", text)
    lines = log.text().removesuffix("\n").split("\n")
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_a_trace_without_raw_characters_and_without_local_variables(log_format: str) -> None:
    log = Log(log_format=log_format)
    raise_and_log(log, NASTY)
    assert "RuntimeError" in log.text()
    assert "raise_and_log" in log.text()
    assert "S3CR3T" not in log.text()
    assert all(line.isprintable() for line in log.text().split("\n"))


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_warning_of_python_is_a_line_of_the_log(log_format: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        log = Log(log_format=log_format)
        warnings.warn(f"about {NASTY}", RuntimeWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "library_message" in log.text()
    assert "py.warnings" in log.text()
    assert all(line.isprintable() for line in log.text().split("\n"))


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_library_is_quoted_under_one_event_with_its_name(log_format: str) -> None:
    log = Log(log_format=log_format)
    logging.getLogger("urllib3.connectionpool").warning("Retrying after %s", "a reset")
    assert "library_message" in log.text()
    assert "Retrying after a reset" in log.text()
    assert "urllib3.connectionpool" in log.text()
    if log_format == "json":
        assert log.events()[0]["level"] == "warning"


def test_what_is_less_severe_than_the_level_is_not_written() -> None:
    log = Log(level="WARNING", log_format="json")
    log.log.info("quiet")
    logging.getLogger("some.library").info("quiet, too")
    log.log.warning("loud")
    assert [event["event"] for event in log.events()] == ["loud"]


def test_chatty_libraries_are_heard_from_warnings_on_also_when_we_debug() -> None:
    log = Log(level="DEBUG", log_format="json")
    logging.getLogger("botocore.auth").debug("Authorization: …")
    logging.getLogger("urllib3.connectionpool").info("Starting new connection")
    log.log.debug("our_own")
    assert [event["event"] for event in log.events()] == ["our_own"]


def test_a_new_level_counts_for_loggers_that_are_there_already() -> None:
    log = Log(level="INFO", log_format="json")
    ours = structlog.get_logger()
    ours.debug("before")
    configure_logging("DEBUG", "json", log.stream)
    ours.debug("after")
    assert [event["event"] for event in log.events()] == ["after"]


def test_only_the_first_time_is_news_for_each_subject_and_message() -> None:
    seen = RepeatFilter()
    asked = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "x"), ("a", "x")]
    assert [seen.is_news(*each) for each in asked] == [True, False, True, True, False]


def test_what_was_said_long_ago_is_forgotten_so_that_memory_is_bounded() -> None:
    seen = RepeatFilter(size=3)
    for subject in "abc":
        seen.is_news(subject, "x")
    assert not seen.is_news("a", "x")
    assert seen.is_news("d", "x")
    assert not seen.is_news("a", "x"), "a repeated message is remembered"
    assert seen.is_news("b", "x"), "the oldest is forgotten"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_a_library_says_of_a_secret_is_logged_without_it(log_format: str) -> None:
    log = Log(log_format=log_format)
    redact.learn(["kingfisher-of-the-harbour"])
    try:
        logging.getLogger("botocore").error("Invalid header value b'kingfisher-of-the-harbour\\n'")
        error = ValueError("invalid token kingfisher-of-the-harbour")
        structlog.get_logger().error("internal_error", error=str(error), exc_info=error)
    finally:
        redact.forget()
    assert "kingfisher" not in log.stream.getvalue()
    assert log.stream.getvalue().count(MASK) == 3


@pytest.fixture
def journal(tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs a program whose standard error is a stream of the journal; returns its lines."""

    def lines_of(program: str) -> list[str]:
        path = tmp_path / "journal"
        with path.open("wb") as file:
            status = os.fstat(file.fileno())
            stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            subprocess.run(
                [sys.executable, "-c", program], stderr=file, env=os.environ | stream, check=False, timeout=60
            )
        return path.read_text().splitlines()

    return lines_of


LOGS = """
import structlog
from watcher.telemetry import configure_logging
configure_logging("DEBUG", FORMAT)
log = structlog.get_logger()
for level in ("debug", "info", "warning", "error", "critical"):
    getattr(log, level)("told", key="value")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


def test_in_the_journal_every_line_has_its_priority_and_no_second_time(
    journal: Callable[[str], list[str]],
) -> None:
    *lines, failed = journal(LOGS.replace("FORMAT", "'json'"))
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert all(line[3:].startswith('{"event": "told", "level": ') for line in lines)
    assert not any("timestamp" in json.loads(line[3:]) for line in lines)
    assert failed.startswith('<3>{"event": "failed"')


def test_in_the_journal_each_line_of_a_traceback_has_its_priority(
    journal: Callable[[str], list[str]],
) -> None:
    lines = journal(LOGS.replace("FORMAT", "'console'"))
    assert len(lines) > 6
    assert {line[:3] for line in lines[5:]} == {"<3>"}


def test_in_the_journal_a_command_that_is_refused_is_an_error(journal: Callable[[str], list[str]]) -> None:
    arguments = ["--env-file", "/nowhere", "run"]
    program = f"import sys; from watcher.cli import main; sys.argv[1:] = {arguments}; main()"
    [line] = journal(program)
    assert line.startswith("<3>video-uploader: There is no file /nowhere")


def test_elsewhere_lines_have_no_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's stream is another one than standard error, which was redirected."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not is_journal()
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not is_journal()
    log = Log(log_format="json")
    log.log.warning("told")
    assert log.text().startswith('{"event": "told"')
    assert "timestamp" in log.events()[0]


def test_a_line_that_cannot_be_written_does_not_end_what_logs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError("no space left")

    configure_logging("INFO", "json", Full())
    structlog.get_logger().info("something_happened")
    assert "no space left" in capsys.readouterr().err
