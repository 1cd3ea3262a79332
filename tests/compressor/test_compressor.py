"""The stand-in keeps the compressor's contract: what is tested against it counts for the real one."""

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier

import pytest

from tests.compressor.compressor import Compressor
from tests.compressor.ffmpeg import Probe, probe
from tests.compressor.own_uploads import KEY_ID_VARIABLE, SECRET_VARIABLE, OwnUploads
from tests.compressor.sources import make_large_source
from tests.compressor.steps import Step
from tests.support.harness import BUCKET
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server

VIDEO_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
BASE_URL = f"https://example.com/videos/{VIDEO_ID}"


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
        (source.name, "original", None),
    ]
    assert list(zip(journal.entries, journal.files, strict=True)) == [
        (("processing", VIDEO_ID, "144p", f"{BASE_URL}/{low}"), []),
        (("ready", f"row of {low}", "144 lines of h264", f"{BASE_URL}/{low}"), [low]),
        (("processing", VIDEO_ID, "240p", f"{BASE_URL}/{high}"), [low]),
        (("ready", f"row of {high}", "240 lines of h264", f"{BASE_URL}/{high}"), [low, high]),
        (("finished", VIDEO_ID, f"row of {high}"), [low, high]),
        (("original", VIDEO_ID, f"{BASE_URL}/{source.name}"), sorted([low, high, source.name])),
        (("describe", f"row of {source.name}", "180 lines of h264"), sorted([low, high, source.name])),
    ]


def test_the_original_is_a_copy_with_the_sources_old_time(source: Path, compressor: Compressor) -> None:
    *_, original = compressor.compress(VIDEO_ID, source)
    assert original.path.read_bytes() == source.read_bytes()
    assert original.path.stat().st_mtime == 1_000_000_000
    assert original.path.stat().st_nlink == 1


def test_compressing_again_overwrites_in_place_and_copies_no_original(
    source: Path, compressor: Compressor
) -> None:
    def written() -> list[tuple[int, bytes, int]]:
        paths = [outcome.path for outcome in compressor.compress(VIDEO_ID, source)]
        return [(path.stat().st_ino, path.read_bytes(), path.stat().st_ctime_ns) for path in paths]

    first, second = written(), written()
    assert [file[:2] for file in first] == [file[:2] for file in second]
    assert [before == after for before, after in zip(first, second, strict=True)] == [False, False, True]


def test_a_video_submitted_twice_at_once_is_two_encodes_into_one_file(
    source: Path, compressor: Compressor
) -> None:
    """Each of them has the file open; what it holds in the end is anybody's guess."""
    both, inodes = Barrier(2), set[int]()

    def meet(step: Step, video_id: str, quality: str | None) -> None:
        if step is Step.ENCODE_STARTED:
            both.wait(30)
            inodes.add((compressor.completed_dir / video_id / f"{source.stem}_{quality}.mp4").stat().st_ino)

    twice = replace(compressor, qualities=["144p"], hook=meet)
    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(lambda _: next(twice.compress(VIDEO_ID, source)), range(2))
    assert len({outcome.path for outcome in outcomes}) == len(inodes) == 1


def test_with_its_keys_filled_in_it_uploads_by_rules_of_its_own(
    source: Path, compressor: Compressor, journal: Journal, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a rendition ends as the source does, whatever it is; no URL is percent-encoded."""
    monkeypatch.setenv(KEY_ID_VARIABLE, ACCESS_KEY_ID)
    monkeypatch.setenv(SECRET_VARIABLE, SECRET_ACCESS_KEY)
    moved = source.with_suffix(".mov")
    moved.write_bytes(source.read_bytes())
    uploads = OwnUploads.to(server.url, REGION, BUCKET, "https://cdn.example")
    outcomes = list(replace(compressor, qualities=["144p"], uploads=uploads).compress(VIDEO_ID, moved))
    keys = [f"videos/{VIDEO_ID}/{source.stem}_{quality}.mov" for quality in ("144p", "original")]
    for key, outcome in zip(keys, outcomes, strict=True):
        object_ = server.client().get_object(Bucket=BUCKET, Key=key)
        assert object_["Body"].read() == outcome.path.read_bytes()
    shown = [entry[-1] for entry in journal.entries if entry[0] in {"ready", "original"}]
    assert shown == [f"https://cdn.example/{key}" for key in keys]


def test_sigterm_in_the_middle_leaves_a_valid_but_shorter_mp4(source: Path, compressor: Compressor) -> None:
    stopped = replace(compressor, failures={(VIDEO_ID, "240p"): signal.SIGTERM})
    low, high, _ = stopped.compress(VIDEO_ID, source)
    assert high.error is not None
    assert high.error.startswith("ffmpeg ended with 255 on ")
    assert 0 < probe(high.path).duration < 0.6 * probe(low.path).duration


def test_every_step_is_told_in_order_with_its_video_and_quality(source: Path, compressor: Compressor) -> None:
    """The directory of the video is there before its first row."""
    told: list[tuple[Step, str, str | None]] = []

    def hear(step: Step, video_id: str, quality: str | None) -> None:
        assert (compressor.completed_dir / video_id).is_dir()
        told.append((step, video_id, quality))

    failing = replace(compressor, hook=hear, failures={(VIDEO_ID, "240p"): signal.SIGKILL})
    list(failing.compress(VIDEO_ID, source))
    assert {video_id for _, video_id, _ in told} == {VIDEO_ID}
    assert [(step, quality) for step, _, quality in told] == [
        (Step.ROW_INSERTED, "144p"),
        (Step.ENCODE_STARTED, "144p"),
        (Step.ENCODED, "144p"),
        (Step.PROBED, "144p"),
        (Step.READY, "144p"),
        (Step.ROW_INSERTED, "240p"),
        (Step.ENCODE_STARTED, "240p"),
        (Step.BROKEN, "240p"),
        (Step.FAILED, "240p"),
        (Step.DEFAULTED, None),
        (Step.COPIED, "original"),
        (Step.ORIGINAL_PROBED, "original"),
        (Step.ORIGINAL_INSERTED, "original"),
        (Step.DESCRIBED, "original"),
    ]
    assert {step for step, _, _ in told} == set(Step)


def test_the_file_is_open_from_the_start_of_an_encode_until_its_end(
    source: Path, compressor: Compressor
) -> None:
    """Whoever holds the encode holds ffmpeg, with the file open and its index not written."""
    seen: dict[Step, tuple[bool, bool]] = {}

    def look(step: Step, video_id: str, quality: str | None) -> None:
        if quality == "144p" and step in {Step.ENCODE_STARTED, Step.ENCODED}:
            path = compressor.completed_dir / video_id / f"{source.stem}_144p.mp4"
            seen[step] = (_is_open_elsewhere(path), b"moov" in path.read_bytes())

    next(replace(compressor, hook=look).compress(VIDEO_ID, source))
    assert seen == {Step.ENCODE_STARTED: (True, False), Step.ENCODED: (False, True)}


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


def _is_open_elsewhere(path: Path) -> bool:
    """Whether a process of this machine has the file open for writing."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.samefile(path) and link.lstat().st_mode & 0o200:
                return True
        except OSError:
            continue
    return False
