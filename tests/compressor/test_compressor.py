"""The stand-in keeps the compressor's contract: what is tested against it counts for the real one."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.compressor.__main__ import main
from tests.compressor.compressor import Compressor
from tests.compressor.ffmpeg import FfmpegError, Probe, encode, probe
from tests.compressor.sources import make_large_source, make_source

VIDEO_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
BASE_URL = f"https://example.com/videos/{VIDEO_ID}"
WORK = Compressor.__module__
NAME = "Été #1 100% (final).v2.mp4"


@dataclass
class Journal:
    """A recorder that remembers what it was told, in order, and what lay on the disk at that time."""

    completed_dir: Path
    entries: list[tuple[str, ...]] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)

    def _write(self, *entry: str) -> str:
        self.entries.append(entry)
        self.files.append(sorted(path.name for path in self.completed_dir.glob("*/*")))
        return f"row of {entry[-1].rpartition('/')[2]}"

    def processing(self, video_id: str, quality: str, url: str) -> str:
        return self._write("processing", video_id, quality, url)

    def ready(self, row: str, url: str, found: Probe) -> None:
        self._write("ready", row, f"{found.height} lines of {found.codec}", url)

    def failed(self, row: str) -> None:
        self._write("failed", row)

    def finished(self, video_id: str, default_row: str | None) -> None:
        self._write("finished", video_id, str(default_row))

    def original(self, video_id: str, url: str) -> str:
        return self._write("original", video_id, url)

    def describe(self, row: str, found: Probe) -> None:
        self._write("describe", row, f"{found.height} lines of {found.codec}")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real source video, from long ago."""
    path = tmp_path_factory.mktemp("pending") / NAME
    make_source(path, seconds=0.5, height=180)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "completed")


@pytest.fixture
def compressor(journal: Journal) -> Compressor:
    return Compressor(journal.completed_dir, ["240p", "144p"], journal)


def test_rows_and_files_come_in_the_contracts_order(
    source: Path, compressor: Compressor, journal: Journal
) -> None:
    outcomes = list(compressor.compress(VIDEO_ID, source))
    low, high = f"{source.stem}_144p.mp4", f"{source.stem}_240p.mp4"
    assert [(outcome.path.name, outcome.quality, outcome.error) for outcome in outcomes] == [
        (low, "144p", None),
        (high, "240p", None),
        (NAME, "original", None),
    ]
    assert list(zip(journal.entries, journal.files, strict=True)) == [
        (("processing", VIDEO_ID, "144p", f"{BASE_URL}/{low}"), []),
        (("ready", f"row of {low}", "144 lines of h264", f"{BASE_URL}/{low}"), [low]),
        (("processing", VIDEO_ID, "240p", f"{BASE_URL}/{high}"), [low]),
        (("ready", f"row of {high}", "240 lines of h264", f"{BASE_URL}/{high}"), [low, high]),
        (("finished", VIDEO_ID, f"row of {high}"), [low, high]),
        (("original", VIDEO_ID, f"{BASE_URL}/{NAME}"), sorted([low, high, NAME])),
        (("describe", f"row of {NAME}", "180 lines of h264"), sorted([low, high, NAME])),
    ]


def test_the_original_is_a_copy_with_the_sources_old_time(source: Path, compressor: Compressor) -> None:
    *_, original = compressor.compress(VIDEO_ID, source)
    assert original.path.read_bytes() == source.read_bytes()
    assert original.path.stat().st_mtime == 1_000_000_000
    assert original.path.stat().st_nlink == 1


def test_compressing_again_overwrites_in_place_and_copies_no_original(
    source: Path, compressor: Compressor
) -> None:
    def identities() -> list[tuple[int, int]]:
        outcomes = compressor.compress(VIDEO_ID, source)
        return [(found.st_ino, found.st_ctime_ns) for found in (outcome.path.stat() for outcome in outcomes)]

    first, second = identities(), identities()
    assert [inode for inode, _ in first] == [inode for inode, _ in second]
    assert [before == after for before, after in zip(first, second, strict=True)] == [False, False, True]


def test_an_encode_that_fails_is_recorded_and_leaves_its_broken_file(
    source: Path, compressor: Compressor, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_in_the_middle(source: Path, output: Path, *, height: int) -> None:
        output.write_bytes(b"\0" * 48)
        raise FfmpegError("ffmpeg was killed")

    monkeypatch.setattr(f"{WORK}.encode", die_in_the_middle)
    *renditions, original = compressor.compress(VIDEO_ID, source)
    assert [(outcome.path.stat().st_size, outcome.error) for outcome in renditions] == [
        (48, "ffmpeg was killed")
    ] * 2
    assert original.error is None
    verdicts = [entry[0] for entry in journal.entries]
    assert verdicts == ["processing", "failed"] * 2 + ["finished", "original", "describe"]
    assert ("finished", VIDEO_ID, "None") in journal.entries


def test_a_good_encode_whose_file_is_taken_away_before_the_probe_is_a_failed_one(
    source: Path, compressor: Compressor, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{WORK}.encode", _and_then_gone(encode))
    outcome = next(compressor.compress(VIDEO_ID, source))
    assert outcome.error
    assert [entry[0] for entry in journal.entries] == ["processing", "failed"]


def test_an_original_that_is_taken_away_before_the_probe_gets_no_row(
    source: Path, compressor: Compressor, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_and_lose(source: Path, output: Path) -> None:
        assert not output.exists()

    monkeypatch.setattr(f"{WORK}.shutil.copy2", copy_and_lose)
    *_, original = compressor.compress(VIDEO_ID, source)
    assert original.error
    assert journal.entries[-1][0] == "finished"


def test_a_copy_is_kept_aside_even_of_what_is_taken_away_at_once(source: Path, tmp_path: Path) -> None:
    """Somebody may release a file as soon as its row says that it is ready."""

    class TakesAway(Journal):
        def ready(self, row: str, url: str, found: Probe) -> None:
            super().ready(row, url, found)
            (self.completed_dir / VIDEO_ID / url.rpartition("/")[2]).unlink()

    journal = TakesAway(tmp_path / "completed")
    compressor = Compressor(journal.completed_dir, ["144p"], journal, aside=tmp_path / "aside")
    rendition, original = compressor.compress(VIDEO_ID, source)
    kept = tmp_path / "aside" / VIDEO_ID
    assert probe(kept / rendition.path.name).height == 144
    assert (kept / original.path.name).read_bytes() == source.read_bytes()


def test_the_large_source_is_large_enough_for_a_multipart_upload(tmp_path: Path) -> None:
    make_large_source(tmp_path / "large.mov", seconds=1)
    assert (tmp_path / "large.mov").stat().st_size > 16 * 1024 * 1024


def test_what_is_no_video_is_told_with_ffmpegs_own_words(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(FfmpegError, match=r"notes\.mp4|Invalid data"):
        probe(tmp_path / "notes.mp4")


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


def _and_then_gone(encode: Callable[..., None]) -> Callable[..., None]:
    def encode_and_lose(source: Path, output: Path, *, height: int) -> None:
        encode(source, output, height=height)
        output.unlink()

    return encode_and_lose
