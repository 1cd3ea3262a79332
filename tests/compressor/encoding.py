"""Encoding onto the final path, with a moment at which ffmpeg is known to be at work and waits for us."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from tempfile import TemporaryFile
from typing import Self

import imageio_ffmpeg

from tests.compressor.ffmpeg import FfmpegError, probe

_TICK_SECONDS = 0.002


def encode(
    source: Path,
    output: Path,
    *,
    height: int,
    started: Callable[[], None] = lambda: None,
    ended_by: Signals | None = None,
) -> None:
    """Encode the source at a height onto the final path: no temporary name, and overwriting what is there.

    `started` is called when ffmpeg has opened the file and holds its first frame; it goes on afterwards.
    With `ended_by` it is sent that signal then. Raises `FfmpegError` unless ffmpeg ends well.
    """
    with _Gate() as gate, TemporaryFile() as words:
        command = [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "error"),
            *_reach(source, ended_by),
            *("-i", source),
            *("-vf", f"scale=-2:{height}", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
            # With faststart ffmpeg reads its own output back at the end, to move the index to the front.
            *("-c:a", "aac", "-movflags", "+faststart", *gate.options, "-y", output),
        ]
        with _ended(subprocess.Popen(command, stderr=words, pass_fds=[gate.writer])) as process:
            if gate.wait_for_first_frame():
                started()
                if ended_by is not None:
                    _wait_for_header(process, output)
                    process.send_signal(ended_by)
            gate.let_pass()
            process.wait()
        words.seek(0)
        said = words.read().decode(errors="backslashreplace")
    if process.returncode != 0:
        raise FfmpegError.ended(process.returncode, output, said)


class _Gate:
    """Holds ffmpeg at its first frame.

    ffmpeg writes a line about each frame before it encodes it. Ours is longer than the pipe it goes to: its
    first byte tells that the file is open, and ffmpeg is held until the rest is read, whatever the load of
    the machine and the length of the source.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        capacity = fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        self.options = (
            *("-stats_enc_pre:v:0", f"pipe:{self.writer}"),
            *("-stats_enc_pre_fmt:v:0", "." * (2 * capacity)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._reader)
        if self.writer >= 0:
            os.close(self.writer)

    def wait_for_first_frame(self) -> bool:
        """Wait for ffmpeg, which must have been started; ``False`` if it ends without a frame."""
        # As long as we have the writing end too, we would not see that ffmpeg has closed its own.
        os.close(self.writer)
        self.writer = -1
        return bool(os.read(self._reader, 1))

    def let_pass(self) -> None:
        """Let ffmpeg go on, to its end."""
        while os.read(self._reader, 1 << 16):
            pass


def _reach(source: Path, ended_by: Signals | None) -> tuple[str, ...]:
    """How far ffmpeg reads.

    After SIGTERM ffmpeg still encodes what it has read by then, which is all of a short source. Its output
    must end up shorter, however late it notices the signal: so it is not given more than the first half.
    """
    if ended_by is None:
        return ()
    try:
        return ("-t", str(probe(source).duration / 2))
    except FfmpegError:
        # The encode is going to say the same.
        return ()


def _wait_for_header(process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until the first bytes are on the disk, which is when the sound has got as far as the picture."""
    while output.stat().st_size == 0 and process.poll() is None:
        try:
            process.wait(_TICK_SECONDS)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """See to it that ffmpeg has ended after the block, however that is left."""
    with process:
        try:
            yield process
        finally:
            process.kill()
