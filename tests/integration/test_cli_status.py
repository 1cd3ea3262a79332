"""`status` and `list` as processes: output for people and programs."""

from __future__ import annotations

import errno
import os
import re
import signal
from typing import Any

import pytest

from db import State
from tests.support.cli_process import CUT, GOOD, KEY, SECONDS, Command
from tests.support.harness import VIDEO_ID

pytestmark = pytest.mark.long

COLUMNS = set(
    re.findall(
        r"\w+",
        "path id video_id filename quality device inode size mtime_ns checksum etag version_id object_key "
        "url state attempts due_at last_error instance claimed_by claim claimed_until multipart_id part_size "
        "bytes_sent discovered_at verified_at published_at released_at",
    )
)
"""What scripts may rely on."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_list_as_json_has_every_column_and_times_in_utc(used_command: Command) -> None:
    rows = used_command("list", "--json").json()
    assert rows == sorted(rows, key=lambda row: row["id"], reverse=True)
    assert used_command("list", "--json", "--limit", "1").json() == rows[:1]
    for row in rows:
        assert row.keys() >= COLUMNS
        for name, value in row.items():
            if name.endswith(("_at", "_until")) and value is not None:
                assert TIME.fullmatch(value), name
    good = next(row for row in rows if row["path"] == GOOD)
    assert (good["video_id"], good["filename"], good["quality"]) == (VIDEO_ID, "good.mp4", "720p")
    assert good["object_key"] == KEY
    assert good["url"].endswith(KEY)
    assert None not in {good[f"{word}_at"] for word in ("discovered", "verified", "published", "due")}
    assert good["released_at"] is None


def test_list_takes_a_state_and_a_video(used_command: Command) -> None:
    def paths(*arguments: str) -> list[str]:
        return [row["path"] for row in used_command("list", "--json", *arguments).json()]

    assert paths("--state", "rejected") == [CUT]
    assert paths("--video", VIDEO_ID.upper(), "--state", "published") == [GOOD]
    assert paths("--video", VIDEO_ID.replace("0", "1")) == []


def test_list_by_video_tells_what_became_of_each_quality(used_command: Command) -> None:
    (video,) = used_command.here("list", "--videos", "--json").json()
    qualities = {name: video[name] for name in ("live", "waiting", "failed")}
    assert (video["video_id"], qualities) == (
        VIDEO_ID,
        {"live": ["720p"], "waiting": [], "failed": ["480p"]},
    )
    heading, line = used_command.here("list", "--videos").out.splitlines()
    assert heading.split() == ["VIDEO", "CHANGED", "QUALITIES"]
    assert line.startswith(VIDEO_ID)
    assert line.endswith("live 720p; failed 480p")
    assert "--state" in used_command.here("list", "--videos", "--state", "failed").refused(2)


def test_list_for_people_is_a_line_a_row(used_command: Command) -> None:
    ran = used_command("list")
    heading, *lines = ran.out.splitlines()
    assert heading.split() == ["ID", "STATE", "QUALITY", "SIZE", "SENT", "CHANGED", "PATH"]
    assert sorted(line.split()[-1] for line in lines) == sorted([GOOD, CUT])


def test_status_counts_and_tells_the_last_errors(used_command: Command) -> None:
    status = used_command("status", "--json").json()
    assert status["counts"]["published"] == status["counts"]["rejected"] == 1
    assert set(status["counts"]) == {state.value for state in State}
    assert status["instance"] == "test"
    assert status["running"] is False
    assert status["oldest_pending"] is None
    (error,) = status["last_errors"]
    assert error["path"] == CUT
    ran = used_command("status")
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^published +1 *$", ran.out, re.MULTILINE)
    assert "Last errors:" in ran.out
    assert CUT in ran.out


def test_status_tells_what_is_pending_for_longest(copied_command: Command) -> None:
    copied_command("retry", "--all")
    assert copied_command("status", "--json").json()["oldest_pending"]["path"] == CUT
    assert f"Oldest pending: {CUT}, for " in copied_command("status").out


@pytest.mark.parametrize("arguments", [("status",), ("list",), ("retry", "--all"), ("explain", GOOD)])
def test_before_the_first_run_there_is_no_ledger_and_none_is_made(
    offline_command: Command, arguments: tuple[str, ...]
) -> None:
    said = offline_command(*arguments).refused(1)
    assert "`video-uploader run` once" in said
    assert f"There is no ledger at {offline_command.place}/state/" in said
    assert "another DATABASE_URL" in said
    assert not os.path.exists(os.path.join(offline_command.place, "state"))


def test_a_ledger_in_a_directory_of_another_user_is_said_to_be_there(
    offline_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state directory of a service may be entered by its user alone."""
    real = os.stat

    def stat(path: str, **options: Any) -> os.stat_result:
        if str(path).endswith("/state/ledger.sqlite3"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert "may not look into its directory" in offline_command.here("status").refused(1)


def test_the_state_directory_that_was_looked_into_is_named(offline_command: Command, place: str) -> None:
    other = f"{place}/other"
    said = offline_command("status", DATABASE_URL=None, STATE_DIRECTORY=other).refused(1)
    assert f"There is no ledger at {other}/" in said
    assert f"another STATE_DIRECTORY than {other}" in said


def test_a_reader_that_goes_away_is_no_error_to_shout_about(used_command: Command) -> None:
    with used_command.popen("list", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=SECONDS) == 1


def test_status_lists_ignored_files_by_reason(copied_command: Command) -> None:
    directory = os.path.join(copied_command.place, "completed")
    files = {
        "not a video/x_720p.mp4": "directory",
        f"{VIDEO_ID}/notes.txt": "extension",
        f"{VIDEO_ID}/clip_999p.mp4": "quality",
    }
    for path in files:
        os.makedirs(os.path.dirname(os.path.join(directory, path)), exist_ok=True)
        with open(os.path.join(directory, path), "wb"):
            pass
    told = copied_command("status", "--ignored", "--json").json()
    assert {file["path"]: file["kind"] for file in told["files"]}.items() >= files.items()
    assert told["counts"] == {"directory": 1, "extension": 2, "quality": 1}, "and a log of the fixture's"
    assert told["left_out"] == 0
    out = copied_command("status", "--ignored").out
    assert f"{VIDEO_ID}/notes.txt: its extension .txt is not in VIDEO_EXTENSIONS" in out
    assert re.search(r"^directory +1 *$", out, re.MULTILINE)


def test_status_tells_the_success_rate(used_command: Command) -> None:
    told = used_command("status", "--json").json()["outcomes"]
    assert told["day"] == {"published": 1, "failed": 0, "rejected": 1, "success_rate": 0.5}
    assert "50.0% of 2 in the last hour" in used_command("status").out


def test_status_is_shown_again_and_again_until_it_is_interrupted(used_command: Command) -> None:
    with used_command.popen("status", "--watch") as process:
        assert process.stdout is not None
        shown = 0
        while shown < 2:
            line = process.stdout.readline()
            assert line
            shown += line.startswith("Instance test on ")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SECONDS) == 0
    assert "omit --json" in used_command("status", "--watch", "--json").refused(2)


def test_h_is_short_for_help(used_command: Command) -> None:
    assert used_command("status", "-h").out == used_command("status", "--help").out != ""
