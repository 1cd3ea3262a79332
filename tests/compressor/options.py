"""What can be asked of the compressor on the command line."""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path
from signal import Signals

from tests.compressor.compressor import DEFAULT_URL_BASE, HEIGHTS
from tests.compressor.own_uploads import KEY_ID_VARIABLE, SECRET_VARIABLE
from tests.compressor.steps import Step


def parse(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """The options, with one video id and one URL base for each source."""
    parser = argparse.ArgumentParser(prog="python -m tests.compressor", description=description)
    _add_work(parser)
    _add_database(parser)
    _add_disturbances(parser)
    options = parser.parse_args(arguments)
    if not options.source and not options.delete:
        parser.error("--source: name a video, or one to --delete")
    if options.source and not (options.completed_dir and options.qualities):
        parser.error("--source needs --completed-dir and --qualities")
    if (options.delete or options.create_tables) and not options.database:
        parser.error("--delete and --create-tables need --database")
    options.video_id = options.video_id or [str(uuid.uuid4()) for _ in options.source]
    if len(options.video_id) != len(options.source):
        parser.error("--video-id: give one for each --source, or none")
    if len(options.video_url_base) == 1:
        options.video_url_base *= len(options.source)
    if options.source and len(options.video_url_base) != len(options.source):
        parser.error("--video-url-base: give one, or one for each --source")
    return options


def _add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", type=_absolute, nargs="+", default=[], help="source videos")
    parser.add_argument(
        "--video-id", type=_video_id, nargs="+", default=[], help="one for each source; made up if not given"
    )
    parser.add_argument("--completed-dir", type=_absolute, help="where the outputs go")
    parser.add_argument("--qualities", type=_qualities, help=f"some of {','.join(HEIGHTS)}")
    parser.add_argument("--parallel", type=int, default=1, choices=range(1, 11), help="videos at once")
    parser.add_argument("--copy-aside", type=_absolute, help="a second place for a copy of every good output")
    parser.add_argument(
        "--again",
        type=_count,
        default=0,
        metavar="N",
        help="compress each video N more times after the first",
    )
    parser.add_argument(
        "--shrink",
        type=_positive,
        default=1,
        metavar="N",
        help="divide the heights, not the names of the qualities, for small files made fast",
    )
    parser.add_argument(
        "--upload-to",
        nargs=4,
        metavar=("ENDPOINT_URL", "REGION", "BUCKET", "BASE_URL"),
        help=f"upload every good output, with the keys of {KEY_ID_VARIABLE} and {SECRET_VARIABLE}",
    )


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--database", metavar="URL", help="a PostgreSQL with the tables; none is written without"
    )
    parser.add_argument("--schema", help="where in the database the tables are, if not where its URL says")
    parser.add_argument("--create-tables", action="store_true", help="make the tables first")
    parser.add_argument(
        "--video-url-base", nargs="+", default=[DEFAULT_URL_BASE], help="one, or one for each source"
    )
    parser.add_argument(
        "--delete",
        type=_video_id,
        action="append",
        default=[],
        metavar="VIDEO_ID",
        help="delete a video's rows when everything is compressed; its files stay; repeatable",
    )


def _add_disturbances(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--delay",
        type=_delay,
        action="append",
        default=[],
        metavar="STEP=SECONDS",
        help=f"wait after a step, every time; repeatable; one of {', '.join(Step)}",
    )
    parser.add_argument(
        "--fail",
        type=_failure,
        action="append",
        default=[],
        metavar="VIDEO_ID:QUALITY=SIGNAL",
        help="send an encode's ffmpeg SIGKILL or SIGTERM in the middle; repeatable",
    )


def _absolute(text: str) -> Path:
    # A relative name with a colon in it would be a protocol to ffmpeg.
    return Path(text).absolute()


def _video_id(text: str) -> str:
    return str(uuid.UUID(text))


def _qualities(text: str) -> list[str]:
    return [_quality(word.strip()) for word in text.split(",")]


def _quality(word: str) -> str:
    if word not in HEIGHTS:
        raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(HEIGHTS)}")
    return word


def _count(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than none")
    return number


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _delay(text: str) -> tuple[Step, float]:
    step, _, seconds = text.partition("=")
    if step not in set(Step):
        raise argparse.ArgumentTypeError(f"{step!r} is none of {', '.join(Step)}")
    return Step(step), float(seconds)


def _failure(text: str) -> tuple[tuple[str, str], Signals]:
    encode, _, signal = text.partition("=")
    video_id, _, quality = encode.partition(":")
    if signal not in {"SIGKILL", "SIGTERM"}:
        raise argparse.ArgumentTypeError(f"{signal!r} is neither SIGKILL nor SIGTERM")
    return (_video_id(video_id), _quality(quality)), Signals[signal]
