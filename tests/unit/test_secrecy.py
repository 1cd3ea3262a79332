"""What searches everything that the tests produce finds a secret wherever it is told."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.s3_server import SECRET_ACCESS_KEY
from tests.support.secret_search import ensure_left_untold, judge


@pytest.mark.parametrize(
    "secret", [SECRET_ACCESS_KEY, quote(SECRET_ACCESS_KEY), quote(SECRET_ACCESS_KEY, safe="")]
)
def test_a_test_that_prints_or_logs_a_secret_fails(secret: str) -> None:
    report = pytest.TestReport(
        "a test", ("", 0, ""), {}, "passed", None, "call", [("Captured log call", f"signing with {secret}!")]
    )
    judge(report)
    assert report.failed
    assert "a secret was told: signing with" in str(report.longrepr)


def test_a_test_that_tells_none_passes() -> None:
    report = pytest.TestReport(
        "a test", ("", 0, ""), {}, "passed", None, "call", [("Captured log call", "ok")]
    )
    judge(report)
    assert report.passed


@pytest.mark.parametrize("path", ["state/ledger.sqlite3", "daemon.log"])
def test_a_secret_that_is_left_beside_the_videos_is_found(tmp_path: Path, path: str) -> None:
    (tmp_path / os.path.dirname(path)).mkdir(exist_ok=True)
    (tmp_path / path).write_bytes(b"\0" * 5000 + SECRET_ACCESS_KEY.encode())
    with pytest.raises(AssertionError, match="a secret was told"):
        ensure_left_untold(str(tmp_path))


@pytest.mark.parametrize("path", ["completed/clip.mp4", ".env"])
def test_what_a_test_has_put_there_itself_is_left_out(tmp_path: Path, path: str) -> None:
    (tmp_path / "completed").mkdir()
    (tmp_path / path).write_text(SECRET_ACCESS_KEY)
    ensure_left_untold(str(tmp_path))
