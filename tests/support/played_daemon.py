"""A real daemon at a server that plays a dialect, and the account of what it sent there."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from storage import part_size_for
from tests.support.daemon_process import DaemonProcess, running_daemon
from tests.support.quirk_server import QuirkServer
from tests.support.quirks import HEAD, MAKES_OBJECT
from watcher.settings.model import Settings

TROUBLE: Final = frozenset(
    {"internal_error", "(not JSON)", "upload_gone", "upload_failed", "stage_paused", "daemon_stalled"}
)
"""Events of which none is said while a dialect is learned."""


class PlayedDaemon:
    """A daemon at work at a server; every file that it is given must end released."""

    def __init__(self, server: QuirkServer, settings: Settings, daemon: DaemonProcess) -> None:
        self.server = server
        self.daemon = daemon
        self._settings = settings
        self._contents: dict[str, bytes] = {}

    def give(self, path: str, content: bytes) -> None:
        """Put a finished file into place."""
        self._contents[f"{self._settings.aws_s3_videos_prefix}/{path}"] = content
        target = os.path.join(self._settings.completed_dir, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)

    def release(self, path: str, content: bytes) -> None:
        """Put a finished file into place, and wait for its release."""
        self.give(path, content)
        self.daemon.expect("upload_released", path=path)

    @property
    def learned(self) -> list[str]:
        """The features that the daemon has said it does without."""
        return [line["feature"] for line in self.daemon.events if line["event"] == "dialect_learned"]

    def ensure_sent_once(self) -> None:
        """Fail unless each object is its file's, and each of its parts was taken once."""
        assert {key: found.body for key, found in self.server.s3.objects.items()} == self._contents
        assert self.server.s3.uploads == {}
        for key, content in self._contents.items():
            taken = [one for one in self.server.served if one.key == key and one.status < 300]
            part_size = part_size_for(len(content))
            parts = 0 if part_size is None else -(-len(content) // part_size)
            numbers = sorted(one.part_number or 0 for one in taken if one.operation == "UploadPart")
            assert numbers == list(range(1, parts + 1))
            assert sum(one.operation in MAKES_OBJECT for one in taken) == 1

    def ensure_each_refusal_taught(self, *, in_vain: int = 0) -> None:
        """Fail unless every header of an operation was refused once, and `in_vain` requests again.

        A refused addressing style costs a request of each operation that is under way before it is learned;
        a HEAD request has no answer that would tell it.
        A refusal that does not say for which header it is costs one in vain for each header that is
        suspected before the guilty one.
        """
        refused = Counter(
            (one.operation, one.refused)
            for one in self.server.refused()
            if not (one.operation in HEAD and one.refused == "path style")
        )
        headers = {key: count for key, count in refused.items() if key[1] != "path style"}
        assert sum(headers.values()) == len(headers) + in_vain, refused
        assert len(headers) <= len(self.learned), f"{refused} taught {self.learned}"


@contextmanager
def played_daemon(
    server: QuirkServer,
    settings: Settings,
    *,
    environment: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
    trouble: frozenset[str] = TROUBLE,
) -> Iterator[PlayedDaemon]:
    """Run a daemon, which must end as asked and must not have said anything of `trouble`."""
    with running_daemon(settings, environment=environment, through=through) as daemon:
        daemon.patience_seconds = 60
        daemon.expect("daemon_ready")
        played = PlayedDaemon(server, settings, daemon)
        yield played
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    said = {line["event"] for line in daemon.events}
    assert said.isdisjoint(trouble), [line for line in daemon.events if line["event"] in trouble]
