"""Other programs that copy files to S3, each called as its manual shows, with its defaults."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Final

from benchmarks import process, toolbox
from benchmarks.files import FileSet, path_of
from benchmarks.process import Cost
from benchmarks.sink_server import Sink
from benchmarks.uploader import BUCKET, client_environment

RIVALS: Final = ("s5cmd", "rclone", "aws-cli")


def copy(name: str, sink: Sink, files: FileSet, directory: str) -> Cost:
    """Copy a set of files with a rival. Raises `CommandFailedError`."""
    target = f"s3://{BUCKET}/{name}/"
    environment = client_environment(directory)
    match name:
        case "s5cmd":
            command = [toolbox.program("s5cmd"), "--log", "error", "--endpoint-url", sink.url]
            command += ["cp", f"{files.root}/*", target]
            environment |= _trusting(sink, "AWS_CA_BUNDLE")
        case "rclone":
            command = [toolbox.program("rclone"), "copy", files.root, f"bench:{BUCKET}/{name}"]
            command += ["--ca-cert", sink.certificate] if sink.certificate else []
            environment |= _rclone(sink)
        case _:
            command = aws(sink, "s3", "cp", "--recursive", "--only-show-errors", files.root, target)
    log = os.path.join(directory, f"{name}.log")
    return process.measured(command, environment, log=log, cwd=directory)


def aws(sink: Sink, *arguments: str) -> list[str]:
    """A command of the AWS CLI for a sink."""
    trust = ["--ca-bundle", sink.certificate] if sink.certificate else []
    return [toolbox.program("aws"), *arguments, "--endpoint-url", sink.url, *trust]


def require_shell_line() -> None:
    """Raise `UnavailableError` if inotifywait(1) is missing."""
    if shutil.which("inotifywait") is None:
        raise toolbox.UnavailableError("there is no inotifywait: install Debian's inotify-tools")


def shell_line_latencies(sink: Sink, files: FileSet, directory: str) -> list[float]:
    """Seconds from the last close of each file to its copy, with the line that people write in a shell."""
    require_shell_line()
    watched = os.path.join(directory, "watched")
    os.makedirs(watched)
    copying = " ".join(aws(sink, "s3", "cp", "--only-show-errors"))
    line = (
        f"inotifywait -q -m -e close_write --format %w%f {watched} |"
        f' while read f; do {copying} "$f" s3://{BUCKET}/shell/ && echo "$f"; done'
    )
    taken = []
    with subprocess.Popen(
        ["sh", "-c", line],
        env=client_environment(directory),
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as shell:
        try:
            assert shell.stdout is not None
            while not any(_is_watching(pid, watched) for pid in process.tree(shell.pid)):
                time.sleep(0.05)
            for number in range(files.count):
                shutil.copyfile(
                    os.path.join(files.root, path_of(number)), os.path.join(watched, f"{number}.mp4")
                )
                closed = time.perf_counter()
                shell.stdout.readline()
                taken.append(time.perf_counter() - closed)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    return taken


def _is_watching(pid: int, directory: str) -> bool:
    """Whether a process has an inotify watch of a directory (see proc_pid_fdinfo(5))."""
    inode = f" ino:{os.stat(directory).st_ino:x} "
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fdinfo"):
            with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
                if any(line.startswith("inotify ") and inode in line for line in file):
                    return True
    except OSError:
        return False
    return False


def _trusting(sink: Sink, name: str) -> Mapping[str, str]:
    return {name: sink.certificate} if sink.certificate else {}


def _rclone(sink: Sink) -> Mapping[str, str]:
    return {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_BENCH_TYPE": "s3",
        # rclone signs requests for AWS as AWS wants it over plain HTTP, which few servers understand.
        "RCLONE_CONFIG_BENCH_PROVIDER": "AWS" if sink.certificate else "Other",
        "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
        "RCLONE_CONFIG_BENCH_ENDPOINT": sink.url,
        "RCLONE_CONFIG_BENCH_REGION": "us-east-1",
        "RCLONE_CONFIG_BENCH_NO_CHECK_BUCKET": "true",
        "RCLONE_CONFIG_BENCH_FORCE_PATH_STYLE": "true",
    }
