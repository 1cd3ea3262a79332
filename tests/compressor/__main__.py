"""The compressor as a program: ``python -m tests.compressor --help``."""

from __future__ import annotations

import argparse
import signal
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import FrameType

from tests.compressor.compressor import HEIGHTS, Compressor
from tests.compressor.recorder import NoDatabase


def main(arguments: list[str] | None = None, *, stopped: Event | None = None) -> int:
    """Compress every source; 0 when every output is good, 1 when one is not or is not made.

    `stopped` ends it after the encodes that are under way, so that no ffmpeg outlives it.
    """
    options = _options(arguments)
    compressor = Compressor(options.completed_dir, options.qualities, NoDatabase(), aside=options.copy_aside)

    def compress(video_id: str, source: Path) -> bool:
        good = True
        for outcome in compressor.compress(video_id, source):
            good = good and outcome.error is None
            print(f"{outcome.error or 'ready'}: {outcome.path}", flush=True)
            if stopped is not None and stopped.is_set():
                return False
        return good

    with ThreadPoolExecutor(options.parallel) as pool:
        return 0 if all(list(pool.map(compress, options.video_id, options.source))) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.compressor", description=__doc__)
    parser.add_argument("--source", type=_absolute, nargs="+", required=True, help="source videos")
    parser.add_argument(
        "--video-id", type=_video_id, nargs="+", default=[], help="one for each source; made up if not given"
    )
    parser.add_argument("--completed-dir", type=_absolute, required=True, help="where the outputs go")
    parser.add_argument("--qualities", type=_qualities, required=True, help=f"some of {','.join(HEIGHTS)}")
    parser.add_argument("--parallel", type=int, default=1, choices=range(1, 11), help="videos at once")
    parser.add_argument("--copy-aside", type=_absolute, help="a second place for a copy of every good output")
    options = parser.parse_args(arguments)
    options.video_id = options.video_id or [str(uuid.uuid4()) for _ in options.source]
    if len(options.video_id) != len(options.source):
        parser.error("--video-id: give one for each --source, or none")
    return options


def _absolute(text: str) -> Path:
    # A relative name with a colon in it would be a protocol to ffmpeg.
    return Path(text).absolute()


def _video_id(text: str) -> str:
    return str(uuid.UUID(text))


def _qualities(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if unknown := [word for word in words if word not in HEIGHTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(HEIGHTS)}")
    return words


def _stopped_by_sigterm() -> Event:
    """An event that SIGTERM sets; whoever is in a hurry sends it to the process group, to ffmpeg as well."""
    stopped = Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    return stopped


if __name__ == "__main__":
    sys.exit(main(stopped=_stopped_by_sigterm()))
