"""The demo as a program: ``python -m tests.demo [--keep]``.

Exits 0 only if every rendition was confirmed, published, fetched as it was written, and released; 1 if not.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.measure import Measurement

from db import OwnCatalog, open_database
from tests.demo.ledger_watch import ProgressView, Watch, watch
from tests.demo.processes import StartError, last_lines, running, s3_server, stop
from tests.demo.setup import DemoSetup
from tests.demo.verdict import Verdict, judge, table_of

LONGEST_SECONDS = 90
"""It takes a tenth of that on two cores with nothing else to do."""


def main() -> int:
    """Play the demo once."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--keep", action="store_true", help="keep the status page up until Ctrl-C, and leave the directory"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False)
    try:
        with _directory(console, keep=options.keep) as root:
            return _play(console, DemoSetup(root), keep=options.keep)
    except StartError as exc:
        console.print(str(exc), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started has been stopped.")
        return 130


def _play(console: Console, setup: DemoSetup, *, keep: bool) -> int:
    started = time.monotonic()
    with console.status("Making two source videos …"):
        setup.prepare()
    with ExitStack() as stack:
        endpoint = stack.enter_context(s3_server(setup.log("s3")))
        verdicts, trouble = _act(console, setup, endpoint)
        seconds = time.monotonic() - started
        if _is_good(console, verdicts, trouble):
            console.print(f"It took {seconds:.0f} s.")
            if keep:
                _keep_up(console, setup, endpoint)
            return 0
    console.print(f"Failed after {seconds:.0f} s. {trouble or ''}", style="red", markup=False)
    for name in ("compressor", "daemon"):
        words = last_lines(setup.log(name))
        console.print(f"The {name}'s last words:", words, sep="\n", markup=False, soft_wrap=True)
    return 1


def _daemon(setup: DemoSetup, endpoint: str) -> AbstractContextManager[subprocess.Popen[str]]:
    environment = setup.daemon_environment(endpoint)
    return running("watcher", "run", log=setup.log("daemon"), environment=environment, directory=setup.state)


def _keep_up(console: Console, setup: DemoSetup, endpoint: str) -> None:
    """Run the daemon again until it ends or Ctrl-C is pressed."""
    with _daemon(setup, endpoint) as daemon, suppress(KeyboardInterrupt):
        console.print(f"The status page stays up until Ctrl-C: {setup.status_page}", soft_wrap=True)
        daemon.wait()


def _act(console: Console, setup: DemoSetup, endpoint: str) -> tuple[list[Verdict], str | None]:
    """Run everything to its end; returns what was found, and what went wrong with the run itself."""
    renditions = list(setup.renditions())
    with ExitStack() as stack:
        console.print(f"S3 is at {endpoint}, the daemon watches {setup.completed}.", soft_wrap=True)
        daemon = stack.enter_context(_daemon(setup, endpoint))
        console.print(f"Its status page is {setup.status_page}", soft_wrap=True)
        compressor = stack.enter_context(
            running("tests.compressor", *setup.compressor_arguments(), log=setup.log("compressor"))
        )
        console.print(f"A compressor makes {len(renditions)} files of {len(setup.videos)} videos.")
        database = stack.enter_context(closing(open_database(setup.database_url, read_only=True)))
        watcher = Watch(database)
        view = ProgressView(console, setup.completed, renditions)
        trouble = watch(
            watcher, view, renditions, compressor=compressor, daemon=daemon, seconds=LONGEST_SECONDS
        )
        exit_code = stop(daemon)
        if trouble is None and exit_code != 0:
            trouble = f"The daemon was asked to stop and ended with {exit_code}."
        uploads = watcher.look()
        if watcher.trouble is not None:
            return [], f"{trouble or ''} {watcher.trouble}".strip()
        catalog = OwnCatalog(database)
        verdicts = judge(renditions, uploads, catalog, completed=setup.completed, aside=setup.aside)
    return verdicts, trouble


def _is_good(console: Console, verdicts: list[Verdict], trouble: str | None) -> bool:
    """Print what was found."""
    if verdicts:
        table = table_of(verdicts)
        # A line that is too wide is broken by the window, so that a URL can be copied as one word.
        widest = console.options.update(max_width=1000)
        console.width = max(console.width, Measurement.get(console, widest, table).maximum)
        console.print(table)
        console.print("Times are counted from when the daemon found the file.", style="dim")
    problems = [
        f"{verdict.rendition.path}: {problem}" for verdict in verdicts for problem in verdict.problems
    ]
    for problem in problems:
        console.print(problem, style="red", markup=False)
    if trouble or problems:
        return False
    console.print(
        f"All {len(verdicts)} renditions were confirmed, published and released. Each was fetched by its "
        "published URL, without credentials, and is byte for byte what the compressor wrote.",
        style="green",
    )
    return True


@contextmanager
def _directory(console: Console, *, keep: bool) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="video-uploader-demo-"))
    try:
        yield root
    finally:
        if keep:
            console.print(f"Left for you to look at: {root}", soft_wrap=True)
        else:
            shutil.rmtree(root)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
