"""`explain` and `retry` as processes."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta

import pytest

from db import State
from tests.support.cli_process import CUT, GOOD, KEY, Command
from tests.support.harness import VIDEO_ID

pytestmark = pytest.mark.long


@pytest.mark.parametrize("absolute", [True, False])
def test_explain_tells_the_story_of_a_path_in_order(used_command: Command, absolute: bool) -> None:
    ran = used_command("explain", os.path.join(used_command.completed, GOOD) if absolute else GOOD)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[:2] == [GOOD, "  On disk: It is finished."]
    story = [line.split()[2].rstrip(":") for line in lines if re.match(r"    \d{4}-", line)]
    assert story == ["discovered", "verified", "published"]
    assert re.search(r"^    Confirmed .* by checksum [A-Za-z0-9+/]{11}=$", ran.out, re.MULTILINE)
    assert "    Next: The daemon is not running; the upload continues when it is started." in lines
    assert re.search(rf"^Catalog row .*: 720p ready, url http://.*/{KEY}$", ran.out, re.MULTILINE)


def test_explain_says_that_an_object_was_read_back(copied_command: Command) -> None:
    update = "UPDATE uploads SET confirmed_by = 'reading' WHERE confirmed_by IS NOT NULL"
    with copied_command.ledger() as ledger, ledger.database.operation("make it so") as connected:
        connected.execute_sql(update)
    shown = copied_command("explain", GOOD).out
    assert re.search(
        r"^    Confirmed .* by reading it back, with the checksum \S{11}=, under the ETag \w+$",
        shown,
        re.MULTILINE,
    )


def test_explain_says_why_a_file_was_rejected_and_what_to_do(used_command: Command) -> None:
    ran = used_command("explain", CUT)
    number = str(used_command.row(CUT)["id"])
    assert re.search(r"^    Why: It is truncated in the mdat box", ran.out, re.MULTILINE)
    assert f"`video-uploader retry {number}`" in ran.out


def test_explain_of_a_video_tells_all_of_its_files(used_command: Command) -> None:
    ran = used_command("explain", VIDEO_ID.upper())
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith(VIDEO_ID)] == [
        CUT,
        GOOD,
        f"{VIDEO_ID}/notes.log",
    ]
    assert ran.out.count("Catalog row") >= 1


def test_explain_says_why_a_file_is_ignored(used_command: Command) -> None:
    ran = used_command("explain", f"{VIDEO_ID}/notes.log")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"{VIDEO_ID}/notes.log",
        "  On disk: It is ignored: its extension .log is not in VIDEO_EXTENSIONS.",
        "  Ledger: no uploads are recorded.",
    ]


def test_explain_of_an_unknown_file(used_command: Command) -> None:
    unknown = f"{VIDEO_ID}/never_720p.mp4"
    ran = used_command("explain", unknown)
    assert ran.out.splitlines()[:3] == [
        unknown,
        "  On disk: It does not exist.",
        "  Ledger: no uploads are recorded.",
    ]


def test_explain_of_an_unknown_video(used_command: Command) -> None:
    unknown = VIDEO_ID.replace("0", "1")
    assert used_command("explain", unknown).refused(1).startswith(f"Nothing is known about video {unknown}")


def test_explain_of_a_path_elsewhere_is_refused(used_command: Command) -> None:
    assert "is not below COMPLETED_DIR" in used_command("explain", "/etc/passwd").refused(1)


def test_explain_can_be_asked_about_a_name_that_is_no_text(used_command: Command) -> None:
    ran = used_command("explain", f"{VIDEO_ID}/\udcff\x1b_720p.mp4")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == f"{VIDEO_ID}/\\udcff\\x1b_720p.mp4"
    assert "its name is not valid UTF-8" in ran.out


def test_a_terminal_that_cannot_show_a_name_gets_escapes(used_command: Command) -> None:
    ran = used_command("explain", f"{VIDEO_ID}/é_720p.mp4", PYTHONIOENCODING="ascii")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == f"{VIDEO_ID}/\\xe9_720p.mp4"


@pytest.mark.parametrize("how", ["id", "--state", "--all"])
def test_retry_makes_what_was_rejected_pending_again_and_says_so(copied_command: Command, how: str) -> None:
    number = str(copied_command.row(CUT)["id"])
    arguments = {"id": [number], "--state": ["--state", "rejected"], "--all": ["--all"]}[how]
    ran = copied_command("retry", *arguments)
    assert (ran.code, ran.err) == (0, "")
    first, last = ran.out.splitlines()
    assert first == f"{number} {CUT}: was rejected, is pending again"
    assert last.startswith("1 pending again, 0 due now instead of later, 0 left as they were.")
    assert copied_command.row(CUT)["state"] == "pending"
    assert copied_command.row(GOOD)["state"] == "published"


def test_retry_makes_what_waits_after_an_error_due_now(copied_command: Command) -> None:
    with copied_command.ledger() as ledger:
        (row,) = ledger.uploads(state=State.REJECTED)
        ledger.reopen(row.id, reason="for the test")
        lease = timedelta(seconds=60)
        (claimed,) = ledger.claim(State.PENDING, 1, lease=lease, horizon=timedelta(days=1))
        ledger.postpone(claimed, delay=timedelta(minutes=5), error="S3 did not answer.", error_code="timeout")
    assert "0 pending again, 1 due now instead of later" in copied_command("retry", "--state", "pending").out
    (row_now,) = copied_command("list", "--json", "--state", "pending").json()
    assert row_now["attempts"] == 0
    assert datetime.fromisoformat(row_now["due_at"]) <= datetime.now().astimezone()


def test_retry_of_numbers_that_are_not_there_does_the_others_and_ends_with_1(copied_command: Command) -> None:
    ran = copied_command("retry", str(copied_command.row(CUT)["id"]), "4711", "815")
    assert ran.code == 1
    assert "is pending again" in ran.out
    assert ran.err == ("video-uploader: This instance has no upload 815, 4711; `list` shows its uploads.\n")


def test_retry_with_nothing_to_do_says_so(online_command: Command) -> None:
    assert online_command("run", "--once").code == 0
    assert online_command("retry", "--all").out.startswith(
        "0 pending again, 0 due now instead of later, 0 left"
    )


def test_retry_of_something_that_is_over_leaves_it(online_command: Command, video: bytes) -> None:
    online_command.write(GOOD, video)
    assert online_command("run", "--once", RELEASE_AFTER_SECONDS="0").code == 0
    ran = online_command("retry", "1")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == f"1 {GOOD}: is released, nothing to retry"
