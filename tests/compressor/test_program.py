"""The program: what it says, writes and ends with."""

from pathlib import Path

import pytest

from tests.compressor.__main__ import main

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


def test_the_program_ends_with_1_when_an_output_is_not_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "notes.mp4"
    source.write_text("no video")
    assert main(["--source", str(source), "--completed-dir", str(tmp_path), "--qualities", "144p"]) == 1
    assert "ffmpeg ended with" in capsys.readouterr().out
