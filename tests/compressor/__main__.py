"""The compressor as a program: ``python -m tests.compressor --help``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType

import psycopg

from tests.compressor.compressor import Compressor
from tests.compressor.database import add_video, create_schema, delete_video
from tests.compressor.options import parse
from tests.compressor.own_uploads import OwnUploads
from tests.compressor.postgres_recorder import PostgresRecorder
from tests.compressor.recorder import NoDatabase, Recorder
from tests.compressor.steps import Hook, Step


def main(arguments: list[str] | None = None, *, stopped: Event | None = None) -> int:
    """Compress every source; 0 when every output is good, 1 when one is not or is not made.

    `stopped` ends it after the encodes that are under way, so that no ffmpeg outlives it.
    """
    options = parse(arguments, __doc__)
    stopped = stopped or Event()
    if options.create_tables:
        create_schema(options.database, options.schema)
    with _recorder(options) as recorder:
        compressor = Compressor(
            options.completed_dir,
            options.qualities,
            recorder,
            aside=options.copy_aside,
            hook=_delaying(dict(options.delay), stopped),
            failures=dict(options.fail),
            shrink=options.shrink,
            uploads=OwnUploads.to(*options.upload_to) if options.upload_to else None,
        )

        def compress(video_id: str, source: Path, video_url_base: str) -> bool:
            try:
                return _compress(compressor, options, video_id, source, video_url_base, stopped)
            except (psycopg.Error, OSError) as exc:
                # Its row or its directory may have been taken away meanwhile; the other videos go on.
                print(f"{' '.join(str(exc).split())}: {source}", flush=True)
                return False

        with ThreadPoolExecutor(options.parallel) as pool:
            good = list(pool.map(compress, options.video_id, options.source, options.video_url_base))
    deleted = [_delete(options, video_id) for video_id in options.delete]
    return 0 if all(good + deleted) else 1


def _compress(
    compressor: Compressor,
    options: argparse.Namespace,
    video_id: str,
    source: Path,
    video_url_base: str,
    stopped: Event,
) -> bool:
    """Compress one video as often as asked; returns whether all of it is made and good."""
    if options.database:
        add_video(options.database, video_id, title=source.stem, schema=options.schema)
    good = True
    for _ in range(1 + options.again):
        for outcome in compressor.compress(video_id, source, video_url_base=video_url_base):
            good = good and outcome.error is None
            # In one piece: of several threads' words and ends of lines nobody could make lines again.
            print(f"{outcome.error or 'ready'}: {outcome.path}\n", end="", flush=True)
            if stopped.is_set():
                return False
    return good


def _delete(options: argparse.Namespace, video_id: str) -> bool:
    deleted = delete_video(options.database, video_id, schema=options.schema)
    print(f"{'deleted' if deleted else 'not there to be deleted'}: {video_id}", flush=True)
    return deleted


@contextmanager
def _recorder(options: argparse.Namespace) -> Iterator[Recorder]:
    if not options.database:
        yield NoDatabase()
        return
    with PostgresRecorder(options.database, options.schema) as recorder:
        yield recorder


def _delaying(delays: dict[Step, float], stopped: Event) -> Hook:
    """A hook that waits, though not for longer than until the program is to stop."""

    def wait(step: Step, video_id: str, quality: str | None) -> None:
        if step in delays:
            stopped.wait(delays[step])

    return wait


def _stopped_by_sigterm() -> Event:
    """An event that SIGTERM sets; whoever is in a hurry sends it to the process group, to ffmpeg as well."""
    stopped = Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    return stopped


if __name__ == "__main__":
    sys.exit(main(stopped=_stopped_by_sigterm()))
