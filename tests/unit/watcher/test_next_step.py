"""What happens next with an upload, in a sentence for every situation."""

from dataclasses import replace
from datetime import timedelta

import pytest

from db import CatalogRow, State
from tests.support.uploads import NOW, make_upload
from watcher.operations.next_step import describe_gate, describe_next_step

IN_AN_HOUR = NOW + timedelta(hours=1)


def next_step(
    *, running: bool = True, paused: dict[str, str] | None = None, keep: bool = False, **changes: object
) -> str:
    row = make_upload(**changes)
    return describe_next_step(row, now=NOW, is_running=running, paused=paused or {}, keep_local=keep)


@pytest.mark.parametrize(
    ("state", "sentence_part"),
    [
        (State.REJECTED, "new content at its path is checked again"),
        (State.FAILED, "Nothing happens without action"),
        (State.GONE, "unless the file reappears"),
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_a_stopped_upload_says_how_to_retry_it(state: State, sentence_part: str, running: bool) -> None:
    sentence = next_step(state=state, running=running)
    assert sentence_part in sentence
    assert "`video-uploader retry 7`" in sentence


@pytest.mark.parametrize(
    ("state", "code", "sentence_part"),
    [
        (State.GONE, "row-gone", "once its video has a ready catalog row"),
        (State.GONE, "local-missing", "unless the file reappears"),
        (State.REJECTED, "encode-failed", "once its video has a ready catalog row"),
        (State.REJECTED, "incomplete", "new content at its path"),
        (State.FAILED, "unreadable", "Every scan checks the file again"),
        (State.FAILED, "not-ours", "Every scan checks the file again"),
        (State.FAILED, "foreign-object", "Nothing happens without action"),
    ],
)
def test_a_stopped_upload_says_what_takes_it_up_again(state: State, code: str, sentence_part: str) -> None:
    """As `Republisher` and `Scanner` do."""
    assert sentence_part in next_step(state=state, error_code=code)


def test_what_is_over_says_so() -> None:
    assert next_step(state=State.RELEASED) == "Nothing: it is done, and this row is its receipt."
    assert "newer content" in next_step(state=State.SUPERSEDED)


def test_every_state_has_a_next_step() -> None:
    assert all(next_step(state=state).endswith(".") for state in State)


@pytest.mark.parametrize("state", [State.PENDING, State.VERIFIED, State.PUBLISHED])
def test_without_the_daemon_nothing_goes_on(state: State) -> None:
    assert (
        next_step(state=state, running=False)
        == "The daemon is not running; the upload continues when it is started."
    )


@pytest.mark.parametrize(
    ("state", "stage"),
    [(State.PENDING, "upload"), (State.VERIFIED, "publish"), (State.PUBLISHED, "release")],
)
def test_a_paused_stage_says_why_and_only_for_its_own_rows(state: State, stage: str) -> None:
    paused = {stage: "There are no credentials."}
    assert next_step(state=state, paused=paused) == (
        f"The {stage} stage is paused and resumes by itself when this is resolved: There are no credentials."
    )
    others = {name: "x" for name in ("upload", "publish", "release", "scan") if name != stage}
    assert "paused" not in next_step(state=state, paused=others)


def test_keep_local_means_that_nothing_is_released() -> None:
    assert (
        next_step(state=State.PUBLISHED, keep=True) == "Nothing: KEEP_LOCAL is set, so the local copy stays."
    )
    assert "published" in next_step(state=State.VERIFIED, keep=True)


def test_an_upload_under_way_says_how_far_it_is() -> None:
    sentence = next_step(claimed_by="upload-1", bytes_sent=1024 * 1024)
    assert sentence == "It is being uploaded: 1.0 MiB of 4.0 MiB (25 %)."
    assert next_step(claimed_by="upload-1", bytes_sent=1, size=0).startswith("It is being uploaded")


@pytest.mark.parametrize("state", [State.PENDING, State.VERIFIED, State.PUBLISHED])
def test_a_row_that_is_claimed_is_being_worked_on(state: State) -> None:
    assert next_step(state=state, claimed_by="test").endswith("stage is working on it.")


def test_what_waits_says_until_when() -> None:
    when = "at 2026-01-02 04:04:05Z (in 1 h)"
    assert next_step(due_at=IN_AN_HOUR, attempts=3) == f"It is retried {when}; 3 attempts have failed."
    assert next_step(due_at=IN_AN_HOUR).endswith(f"due {when}.")
    assert next_step(state=State.VERIFIED, due_at=IN_AN_HOUR) == f"Its URL is published; due {when}."
    assert next_step(state=State.PUBLISHED, due_at=IN_AN_HOUR).endswith(
        f"once the object is confirmed again; due {when}."
    )


def test_what_is_due_is_due_now() -> None:
    assert next_step().endswith("due now.")
    assert next_step(due_at=NOW - timedelta(days=1), attempts=1).startswith("It is retried now;")


def test_what_waits_at_the_gate_waits_for_its_row_unless_the_catalog_cannot_be_asked() -> None:
    assert next_step(awaits_row=True).startswith("It is uploaded when its catalog row is ready")
    assert next_step(awaits_row=True, paused={"upload": "x"}).startswith(
        "It is uploaded when its catalog row"
    )
    assert next_step(awaits_row=True, paused={"catalog": "No server."}).endswith(
        "tried again by itself: No server."
    )


def test_the_gate_shows_the_newest_row_and_whether_it_takes_too_long() -> None:
    """Each of what can be seen there: nothing, one row, several."""
    hour = timedelta(hours=1)
    upload = make_upload(awaits_row=True, due_at=NOW - hour)
    row = CatalogRow(
        "r1", make_upload().video_id, "720p", "https://x/a_720p.mp4", "processing", None, NOW, NOW
    )
    assert describe_gate(upload, [], now=NOW, timeout=hour) == (
        "It has waited for its catalog row since 2026-01-02 02:04:05Z, for 1 h. "
        "The catalog has no row for it."
    )
    others = "Row r2 (720p, ready) names another file, b_720p.mp4."
    assert describe_gate(upload, [], now=NOW, timeout=hour, others=others).endswith(
        f"The catalog has no row for it. {others}"
    )
    assert describe_gate(upload, [row], now=NOW, timeout=hour).endswith(
        "Its row r1 is processing and shows https://x/a_720p.mp4."
    )
    sentence = describe_gate(upload, [row, replace(row, id="r2")], now=NOW, timeout=hour / 2)
    assert ", longer than CATALOG_ROW_TIMEOUT (30 min). Its row r2, the newest of 2, is" in sentence


def test_what_an_operator_keeps_from_being_uploaded_says_how_that_ends() -> None:
    """What is under way, or uploaded already, goes on in spite of a pause."""
    paused = {"uploads": "by hand since then; `video-uploader resume` resumes them"}
    sentence = next_step(state=State.PENDING, paused=paused, claimed_by=None)
    assert sentence == "Uploads are paused by hand since then; `video-uploader resume` resumes them."
    assert "paused" not in next_step(state=State.PENDING, paused=paused, claimed_by="main")
    assert "paused" not in next_step(state=State.VERIFIED, paused=paused, claimed_by=None)
    assert "unhold" in next_step(state=State.PENDING, error_code="held", paused=paused)
