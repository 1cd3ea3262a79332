"""What a compressor, operators, servers and clocks do to a daemon's environment, one act at a time."""

from __future__ import annotations

import os
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from awscrt.checksums import crc64nvme

from tests.faults.invariants import KnownState, Row, content_of, md5
from tests.support.catalog_rows import BASE_URL
from tests.support.fault_proxy import Answer, Forward, Request, s3_error
from tests.support.harness import BUCKET

_END = b"the end of a complete file"
_CHECKSUM = "x-amz-checksum-crc64nvme"
_UPLOAD_TIMES = "due_at claimed_until discovered_at changed_at verified_at published_at released_at"
_LEDGER_TIMES = {
    "uploads": _UPLOAD_TIMES.split(),
    "upload_events": ["at"],
    "publications": ["published_at"],
}


@dataclass
class SimulatedEnvironment(KnownState):
    """What is known to be true, and what changes it."""

    def __post_init__(self) -> None:
        self.proxy.fault = self._refuse_what_differs

    # The compressor

    def begin(self, name: str) -> None:
        """A row `processing`, unless there is one; what is on the disk is going to be overwritten."""
        if self.processing(name) is None:
            row_id = self.rows.insert(name, _quality(name), "processing")
            self.known.append(Row(row_id, name, "processing"))

    def write(self, name: str, *, complete: bool = True) -> None:
        """ffmpeg writes the file in place, to its end or not."""
        self._excuse(name, self.on_disk(name))
        content = self._new_content()
        self._put(name, content if complete else content[:-50])

    def conclude(self, name: str) -> None:
        """The probe decides: the row is `ready`, with the local URL once more, or `failed`."""
        row = self.processing(name)
        content = self.on_disk(name)
        if row is None:
            return
        if content is not None and content.endswith(_END):
            row.status, row.content = "ready", content
            self.called_ready[name].add(content)
            self.rows.update(row.id, status="ready", url=f"{BASE_URL}/{self.path(name)}")
        else:
            self.fail(name)

    def fail(self, name: str) -> None:
        """ffmpeg ended badly, whatever it left."""
        if row := self.processing(name):
            row.status, row.content = "failed", None
            self.rows.update(row.id, status="failed")

    def encode(self, name: str) -> None:
        """From the row `processing` to the row `ready`."""
        self.begin(name)
        self.write(name)
        self.conclude(name)

    def encode_badly(self, name: str, *, complete: bool = True) -> None:
        """From the row `processing` to the row `failed`; what ffmpeg left may look complete."""
        self.begin(name)
        self.write(name, complete=complete)
        self.fail(name)

    def second_row(self, name: str) -> None:
        """A new ready row for a file that did not change, as a second compression leaves of an original."""
        newest = self.newest(name)
        if newest is not None and newest.status == "ready" and newest.content == self.on_disk(name):
            row_id = self.rows.insert(name, _quality(name))
            self.known.append(Row(row_id, name, "ready", newest.content))

    # People and accidents

    def truncate(self, name: str) -> None:
        """Shorten the file, as a power cut does."""
        if content := self.on_disk(name):
            self._excuse(name, self.on_disk(name))
            self._put(name, content[: len(content) // 2])

    def zero(self, name: str) -> None:
        """A power cut leaves zeros in a file that is complete by its structure.

        Only an earlier proof of the content can tell; without one, the row vouches for the zeros.
        """
        content = self.on_disk(name)
        if content and content.endswith(_END):
            self._excuse(name, self.on_disk(name))
            zeros = content[: len(self.video) + 8].ljust(len(content), b"\0")
            self.zeroed.add(zeros)
            if not self.is_proven(name, content):
                self.called_ready[name].add(zeros)
            self._put(name, zeros)

    def remove(self, name: str) -> None:
        """Remove the file."""
        if self.on_disk(name) is not None:
            self._excuse(name, self.on_disk(name))
            os.remove(self.absolute(name))

    def move_away(self, name: str) -> None:
        """Rename the file to a name outside of the template."""
        content = self.on_disk(name)
        if content is not None and name not in self.away:
            os.rename(self.absolute(name), self.absolute(f"{name}.tmp"))
            self.away[name] = content

    def move_back(self, name: str) -> None:
        """And back again, over whatever is there."""
        if name in self.away:
            self._excuse(name, self.on_disk(name))
            os.rename(self.absolute(f"{name}.tmp"), self.absolute(name))
            del self.away[name]

    def knock(self, name: str) -> None:
        """An encoder is about to open the file and waits where a lease is in its way; later it may write."""
        with suppress(BlockingIOError, FileNotFoundError):
            os.close(os.open(self.absolute(name), os.O_WRONLY | os.O_NONBLOCK))

    def write_aside(self, name: str) -> None:
        """Write the next encode through a descriptor that was opened before the file was quarantined."""
        for path in self.asides(name):
            self.begin(name)
            self._excuse(name, content_of(path))
            self._put(name, self._new_content(), path)

    def delete_row(self, name: str) -> None:
        """Delete the newest row."""
        if row := self.newest(name):
            self.excuse_replaced(name)
            self.rows.delete(row.id)
            self.known.remove(row)

    def disown(self, name: str) -> None:
        """Mark the newest row failed before anything of its file is sent."""
        row = self.newest(name)
        if row is not None and row.status == "ready" and not self.is_public(row):
            vouched = [other.content for other in self.known if other is not row]
            if row.content not in {*vouched, self.stored(name)}:
                self.called_ready[name].discard(row.content)
                row.status, row.content = "failed", None
                self.rows.update(row.id, status="failed")

    def point_back(self, name: str) -> None:
        """Give a row its local URL again."""
        for row in self.known:
            if row.name == name and row.status == "ready":
                self.rows.update(row.id, url=f"{BASE_URL}/{self.path(name)}")

    def delete_object(self, name: str) -> None:
        """Delete the object without the proxy."""
        content = self.stored(name)
        if content is not None:
            self.excuse_replaced(name)
            self.server.client().delete_object(Bucket=BUCKET, Key=self.key(name))
            self.own_deletions += 1
            if content not in {self.on_disk(name), self.aside(name), self.away.get(name)}:
                self.excused.add(content)
            # What a power cut has zeroed differs from nothing any more.
            self.called_ready[name] |= {self.on_disk(name), self.away.get(name)} & self.zeroed

    # Servers and clocks

    def break_s3(self, status: int, requests: int) -> None:
        """S3 answers nothing but this for so many requests."""
        self.broken = requests

        def refuse(request: Request, forward: Forward) -> Answer | None:
            if not self.broken:
                return self._refuse_what_differs(request, forward)
            self.broken -= 1
            return s3_error(status, "SlowDown" if status == 503 else "AccessDenied")

        self.proxy.fault = refuse

    def lose_answers(self, requests: int) -> None:
        """S3 does what it is asked so many times and never says so."""
        self.broken = requests

        def lose(request: Request, forward: Forward) -> Answer | None:
            answer = self._refuse_what_differs(request, forward)
            if request.action != "PutObject" or not self.broken:
                return answer
            self.broken -= 1
            return None

        self.proxy.fault = lose

    def mend_s3(self) -> None:
        """S3 works again."""
        self.broken = 0
        self.proxy.fault = self._refuse_what_differs

    def jump(self, by: timedelta) -> None:
        """The database server's clock jumps: what the ledger noted is so much older, or lies ahead.

        The compressor's rows keep their times, which are compared with each other and with S3's, but not
        with now.
        """
        for table, columns in _LEDGER_TIMES.items():
            shifts = ", ".join(f"{column} = {column} - %(by)s" for column in columns)
            self.rows.connection.execute(f"UPDATE video_uploader.{table} SET {shifts}".encode(), {"by": by})

    def touch(self, name: str, at: int) -> None:
        """The file's time is another one, its content is not."""
        if self.on_disk(name) is not None:
            os.utime(self.absolute(name), (at, at))

    def _refuse_what_differs(self, request: Request, forward: Forward) -> Answer | None:
        """S3 takes no object whose checksum is not the one that came with it; this server would."""
        told = next((value for name, value in request.headers.items() if name.lower() == _CHECKSUM), None)
        if told is not None and told != b64encode(crc64nvme(request.body).to_bytes(8)).decode():
            return s3_error(400, "BadDigest")
        return forward()

    def _excuse(self, name: str, content: bytes | None) -> None:
        """Excuse a content that is about to be destroyed, but not by the daemon."""
        if content is not None and content != self.stored(name):
            self.excused.add(content)

    def _put(self, name: str, content: bytes, path: str | None = None) -> None:
        """Write a file in place; what is written for a row must stay where it is until that is decided."""
        self.contents[md5(content)] = content
        if row := self.processing(name):
            row.content = content
        with open(path or self.absolute(name), "wb") as file:
            file.write(content)

    def _new_content(self) -> bytes:
        """A complete video with new content."""
        self.made += 1
        payload = self.made.to_bytes(8) + _END
        return self.video + (len(payload) + 8).to_bytes(4) + b"free" + payload


def _quality(name: str) -> str:
    return name.rpartition("_")[2].removesuffix(".mp4")
