"""The program: what it says, writes and ends with."""

from pathlib import Path

import pytest

from tests.compressor.__main__ import main
from tests.compressor.database import connect
from tests.support.postgres import PostgresServer

VIDEO_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_the_program_compresses_several_videos_and_says_what_became_of_them(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = source.with_name("other.mp4")
    other.write_bytes(source.read_bytes())
    ids = [VIDEO_ID, VIDEO_ID.replace("0f", "1f")]
    arguments = ["--source", str(source), str(other), "--video-id", *ids, "--parallel", "2"]
    arguments += ["--completed-dir", str(tmp_path), "--qualities", "144p"]
    assert main(arguments) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(
        f"ready: {tmp_path}/{video_id}/{name}"
        for video_id, video in zip(ids, (source, other), strict=True)
        for name in (f"{video.stem}_144p.mp4", video.name)
    )


def test_the_program_keeps_the_rows_of_what_it_compresses(
    source: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    with postgres.fresh_database() as url:
        failure = f"{VIDEO_ID}:240p=SIGKILL"
        arguments = ["--database", url, "--create-tables", "--again", "1", "--shrink", "4"]
        arguments += ["--video-url-base", "http://elsewhere/v", "--fail", failure, "--delay", "encoded=0.001"]
        assert main([*_work(source, tmp_path, "144p,240p"), *arguments]) == 1
        with connect(url) as connection:
            rows = connection.execute(
                "SELECT quality, status FROM video_qualities WHERE url LIKE 'http://elsewhere/v/%'"
                " ORDER BY created_at"
            )
            assert rows.fetchall() == [("144p", "ready"), ("240p", "failed"), ("original", "ready")] * 2
            videos = connection.execute("SELECT id::text, title, status FROM videos")
            assert videos.fetchall() == [(VIDEO_ID, source.stem, "published")]


def test_a_video_that_the_database_refuses_is_reported_as_not_good(
    source: Path, tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(database) as connection:
        connection.execute("ALTER TABLE video_qualities ADD CHECK (quality <> '240p')")
    assert main([*_work(source, tmp_path, "240p"), "--database", database]) == 1
    said = capsys.readouterr().out
    assert "violates check constraint" in said
    assert str(source) in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--delay", "soon=1"], "'soon' is none of row-inserted"),
        (["--fail", f"{VIDEO_ID}:144p=SIGHUP"], "'SIGHUP' is neither"),
        (["--fail", f"{VIDEO_ID}:145p=SIGTERM"], "'145p' is none of"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert complaint in capsys.readouterr().err


def _work(source: Path, completed: Path, qualities: str) -> list[str]:
    work = ["--source", str(source), "--video-id", VIDEO_ID]
    return [*work, "--completed-dir", str(completed), "--qualities", qualities]
