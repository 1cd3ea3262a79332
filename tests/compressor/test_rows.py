"""The rows of a compression, as a second connection sees them while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals

import psycopg
import pytest

from tests.compressor.compressor import Compressor
from tests.compressor.database import add_video, connect, delete_video
from tests.compressor.ffmpeg import probe
from tests.compressor.postgres_recorder import PostgresRecorder
from tests.compressor.steps import Hook, Step

VIDEO_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
BASE_URL = f"https://example.com/videos/{VIDEO_ID}"
QUALITIES = ("144p", "240p")


@dataclass
class Reader:
    """A connection that is not the compressor's."""

    connection: psycopg.Connection[tuple[object, ...]]

    def rows(self, columns: str, where: str = "true") -> list[tuple[object, ...]]:
        query = f"SELECT {columns} FROM video_qualities WHERE {where} ORDER BY created_at"
        return self.connection.execute(query.encode()).fetchall()

    def video_status(self) -> str:
        [(status,)] = self.connection.execute(
            "SELECT status FROM videos WHERE id = %s", [VIDEO_ID]
        ).fetchall()
        return str(status)

    def publish(self, quality: str, url: str) -> None:
        self.connection.execute("UPDATE video_qualities SET url = %s WHERE quality = %s", [url, quality])


@dataclass
class Seen:
    """A hook that remembers what `look` returned at each step."""

    look: Callable[[], object]
    at: list[tuple[Step, str | None, object]] = field(default_factory=list)

    def __call__(self, step: Step, video_id: str, quality: str | None) -> None:
        del video_id
        self.at.append((step, quality, self.look()))


@pytest.fixture
def reader(database: str) -> Iterator[Reader]:
    with closing(connect(database)) as connection:
        yield Reader(connection)


@pytest.fixture
def compressor(database: str, tmp_path: Path) -> Iterator[Compressor]:
    """A compressor of a video that has been handed over."""
    add_video(database, VIDEO_ID)
    with PostgresRecorder(database) as recorder:
        yield Compressor(tmp_path / "completed", QUALITIES, recorder, shrink=4)


def test_rows_come_and_change_in_the_contracts_order(
    source: Path, compressor: Compressor, reader: Reader
) -> None:
    seen = Seen(lambda: [*reader.rows("quality, status, is_default, file_size > 0"), reader.video_status()])
    list(replace(compressor, hook=seen).compress(VIDEO_ID, source))
    processing, ready, default = ("processing", False, None), ("ready", False, True), ("ready", True, True)
    low, high = ("144p", *ready), ("240p", *ready)
    assert seen.at == [
        *[
            (step, "144p", [("144p", *processing), "processing"])
            for step in (Step.ROW_INSERTED, Step.ENCODE_STARTED, Step.ENCODED, Step.PROBED)
        ],
        (Step.READY, "144p", [low, "processing"]),
        *[
            (step, "240p", [low, ("240p", *processing), "processing"])
            for step in (Step.ROW_INSERTED, Step.ENCODE_STARTED, Step.ENCODED, Step.PROBED)
        ],
        (Step.READY, "240p", [low, high, "processing"]),
        (Step.DEFAULTED, None, [low, ("240p", *default), "published"]),
        (Step.COPIED, "original", [low, ("240p", *default), "published"]),
        (Step.ORIGINAL_PROBED, "original", [low, ("240p", *default), "published"]),
        (
            Step.ORIGINAL_INSERTED,
            "original",
            [low, ("240p", *default), ("original", "ready", False, None), "published"],
        ),
        (Step.DESCRIBED, "original", [low, ("240p", *default), ("original", *ready), "published"]),
    ]


def test_a_url_written_before_the_row_is_ready_is_lost(
    source: Path, compressor: Compressor, reader: Reader
) -> None:
    """Even at the last moment before it."""
    hook = _at(Step.PROBED, lambda: reader.publish("144p", "https://cdn/too-early"))
    next(replace(compressor, hook=hook).compress(VIDEO_ID, source))
    assert reader.rows("status, url") == [("ready", f"{BASE_URL}/{source.stem}_144p.mp4")]


def test_a_url_written_onto_a_ready_row_stays_and_so_does_the_originals(
    source: Path, compressor: Compressor, reader: Reader
) -> None:
    def publish(step: Step, video_id: str, quality: str | None) -> None:
        if step in {Step.READY, Step.ORIGINAL_INSERTED}:
            reader.publish(str(quality), f"https://cdn/{quality}")

    list(replace(compressor, hook=publish).compress(VIDEO_ID, source))
    assert reader.rows("url, file_size > 0") == [
        (f"https://cdn/{quality}", True) for quality in (*QUALITIES, "original")
    ]


def test_a_row_says_what_the_file_holds(source: Path, compressor: Compressor, reader: Reader) -> None:
    list(compressor.compress(VIDEO_ID, source))
    columns = "resolution_width, resolution_height, codec, container, duration, fps::float, pixel_format"
    columns += ", audio_codec, audio_sample_rate, audio_channels, aspect_ratio, frame_count"
    common = ("h264", "mp4", 0, 30.0, "yuv420p", "aac", 44100, 1)
    low, _, original = reader.rows(columns)
    assert low[:-2] == (64, 36, *common)
    assert original == (320, 180, *common, "16:9", 15)
    sizes = [path.stat().st_size for path in (compressor.completed_dir / VIDEO_ID).iterdir()]
    assert sorted(sizes) == sorted(int(str(size)) for (size,) in reader.rows("file_size"))
    times = "processing_completed_at > processing_started_at, encoding_time >= 0, bitrate > 0"
    assert reader.rows(times, "quality <> 'original'") == [(True, True, True)] * 2


@pytest.mark.parametrize("number", [Signals.SIGKILL, Signals.SIGTERM])
def test_an_interrupted_encode_is_a_failed_row_and_the_highest_good_one_is_the_default(
    source: Path, compressor: Compressor, reader: Reader, number: Signals
) -> None:
    failing = replace(compressor, failures={(VIDEO_ID, "240p"): number})
    broken = [outcome.path for outcome in failing.compress(VIDEO_ID, source) if outcome.error]
    assert reader.rows("quality, status, is_default, file_size > 0") == [
        ("144p", "ready", True, True),
        ("240p", "failed", False, None),
        ("original", "ready", False, True),
    ]
    assert reader.video_status() == "published"
    assert [path.name for path in broken] == [f"{source.stem}_240p.mp4"]
    content = broken[0].read_bytes()
    assert content[4:8] == b"ftyp"
    assert (len(content) == 48) is (b"moov" not in content) is (number is Signals.SIGKILL)


def test_a_video_without_a_good_encode_is_a_draft_without_a_default(
    source: Path, compressor: Compressor, reader: Reader
) -> None:
    failures = {(VIDEO_ID, quality): Signals.SIGKILL for quality in QUALITIES}
    list(replace(compressor, failures=failures).compress(VIDEO_ID, source))
    assert reader.rows("quality, status, is_default") == [
        ("144p", "failed", False),
        ("240p", "failed", False),
        ("original", "ready", False),
    ]
    assert reader.video_status() == "draft"


def test_a_file_that_is_gone_before_the_probe_is_a_failed_row(
    source: Path, compressor: Compressor, reader: Reader
) -> None:
    output = compressor.completed_dir / VIDEO_ID / f"{source.stem}_144p.mp4"
    next(replace(compressor, hook=_at(Step.ENCODED, output.unlink)).compress(VIDEO_ID, source))
    assert reader.rows("quality, status") == [("144p", "failed")]


def test_an_original_that_is_gone_before_the_probe_never_has_a_row(
    source: Path, compressor: Compressor, reader: Reader
) -> None:
    output = compressor.completed_dir / VIDEO_ID / source.name
    *_, original = replace(compressor, hook=_at(Step.COPIED, output.unlink)).compress(VIDEO_ID, source)
    assert original.error
    assert reader.rows("quality") == [("144p",), ("240p",)]


def test_compressing_again_adds_rows_and_moves_the_default(
    source: Path, compressor: Compressor, reader: Reader
) -> None:
    list(compressor.compress(VIDEO_ID, source))
    for quality in (*QUALITIES, "original"):
        reader.publish(quality, "https://cdn/first")
    copy = compressor.completed_dir / VIDEO_ID / source.name
    before = copy.stat()
    list(compressor.compress(VIDEO_ID, source))
    first, second = ("https://cdn/first", "ready"), (f"{BASE_URL}/{source.stem}_240p.mp4", "ready")
    assert reader.rows("url, status, is_default", "quality = '240p'") == [(*first, False), (*second, True)]
    assert reader.rows("quality") == [(quality,) for quality in (*QUALITIES, "original")] * 2
    assert copy.stat() == before


def test_a_second_compression_that_fails_spoils_the_file_of_the_first(
    source: Path, compressor: Compressor, reader: Reader
) -> None:
    list(compressor.compress(VIDEO_ID, source))
    failing = replace(compressor, failures={(VIDEO_ID, "240p"): Signals.SIGKILL})
    list(failing.compress(VIDEO_ID, source))
    assert reader.rows("status, is_default", "quality = '240p'") == [("ready", False), ("failed", False)]
    assert (compressor.completed_dir / VIDEO_ID / f"{source.stem}_240p.mp4").stat().st_size == 48
    assert reader.rows("quality", "is_default") == [("144p",)]


def test_a_video_deleted_in_the_middle_takes_its_rows_with_it_and_gets_no_more(
    source: Path, compressor: Compressor, reader: Reader, database: str
) -> None:
    hook = _at(Step.PROBED, lambda: delete_video(database, VIDEO_ID))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        list(replace(compressor, hook=hook).compress(VIDEO_ID, source))
    assert reader.rows("id") == []
    assert probe(compressor.completed_dir / VIDEO_ID / f"{source.stem}_144p.mp4").height == 36


def _at(awaited: Step, action: Callable[[], object]) -> Hook:
    """A hook that does something at each occurrence of one step."""

    def act(step: Step, video_id: str, quality: str | None) -> None:
        if step is awaited:
            action()

    return act
