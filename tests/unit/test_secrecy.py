"""What searches everything that the tests produce finds a secret wherever it is told."""

from __future__ import annotations

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


def test_a_secret_that_is_left_in_a_file_is_found_except_in_videos_and_env_files(tmp_path: Path) -> None:
    for path in ("completed/clip.mp4", ".env"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(SECRET_ACCESS_KEY)
    ensure_left_untold(str(tmp_path))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.sqlite3").write_bytes(b"\0" * 5000 + SECRET_ACCESS_KEY.encode())
    with pytest.raises(AssertionError, match="a secret was told"):
        ensure_left_untold(str(tmp_path))
