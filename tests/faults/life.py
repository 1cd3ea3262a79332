"""A platform's life in any order: what a compressor, people, servers and crashes do to a daemon.

Everything is real but the clock and the crash: PostgreSQL, the S3 server, the directory. A crash is an
exception that nothing catches, thrown at a named step; then everything is built anew from what is on the disk
and in the database.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from db import DatabaseError, State
from storage import StorageError
from tests.catalog_rows import BASE_URL, CatalogRows
from tests.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault, s3_error
from tests.s3_server import S3Server
from tests.workshop import BUCKET, VIDEO_ID, Workshop, open_workshop
from watcher import steps
from watcher.openat import TreeError
from watcher.release import asides_of
from watcher.settings import Settings
from watcher.steps import Step

NAMES = ("a_480p.mp4", "b_720p.mp4")


class CrashError(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@dataclass
class Row:
    """A row of the compressor's, as it has written it: with the content that it called ready."""

    id: str
    name: str
    status: str
    content: bytes | None = None


@dataclass
class Life:
    """The world of one example, and what is known to be true of it."""

    settings: Settings
    server: S3Server
    proxy: FaultProxy
    rows: CatalogRows
    video: bytes
    made: int = 0
    known: list[Row] = field(default_factory=list)
    called_ready: dict[str, set[bytes]] = field(default_factory=lambda: {name: set() for name in NAMES})
    contents: dict[str, bytes] = field(default_factory=dict)
    """Everything that was ever written, by its MD5."""
    excused: set[bytes] = field(default_factory=set)
    """Contents that somebody else than the daemon has destroyed."""
    away: dict[str, bytes] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.shop: Workshop = self._open()

    # The compressor

    def begin(self, name: str) -> None:
        """A row `processing`; what is on the disk is going to be overwritten."""
        row_id = self.rows.insert(name, _quality(name), "processing")
        self.known.append(Row(row_id, name, "processing"))

    def write(self, name: str, *, complete: bool) -> None:
        """ffmpeg writes the file in place, to its end or not."""
        self._destroy(name)
        content = self._new_content()
        self._put(name, content if complete else content[:-50])

    def conclude(self, name: str) -> None:
        """The probe decides: the row is `ready`, with the local URL once more, or `failed`."""
        row = self.processing(name)
        content = self.on_disk(name)
        if row is None:
            return
        if content is not None and content.endswith(_TAIL):
            row.status, row.content = "ready", content
            self.called_ready[name].add(content)
            self.rows.update(row.id, status="ready", url=f"{BASE_URL}/{self.path(name)}")
        else:
            row.status = "failed"
            self.rows.update(row.id, status="failed")

    def fail(self, name: str) -> None:
        """ffmpeg ended badly, whatever it left."""
        if row := self.processing(name):
            row.status = "failed"
            self.rows.update(row.id, status="failed")

    def second_row(self, name: str) -> None:
        """A new ready row for a file that did not change, as a second compression leaves of an original."""
        newest = self.newest(name)
        if newest is not None and newest.status == "ready" and newest.content == self.on_disk(name):
            row_id = self.rows.insert(name, _quality(name))
            self.known.append(Row(row_id, name, "ready", newest.content))

    # People and accidents

    def truncate(self, name: str) -> None:
        """A power cut, or somebody, shortens the file."""
        content = self.on_disk(name)
        if content:
            self._destroy(name)
            self._put(name, content[: len(content) // 2])

    def remove(self, name: str) -> None:
        """Somebody removes the file."""
        if self.on_disk(name) is not None:
            self._destroy(name)
            os.remove(self.shop.absolute(self.path(name)))

    def move_away(self, name: str) -> None:
        """Somebody renames the file to what is none of ours."""
        content = self.on_disk(name)
        if content is not None and name not in self.away:
            os.rename(self.shop.absolute(self.path(name)), self.shop.absolute(f"{VIDEO_ID}/{name}.tmp"))
            self.away[name] = content

    def move_back(self, name: str) -> None:
        """And back again, over whatever is there."""
        if name in self.away:
            self._destroy(name)
            os.rename(self.shop.absolute(f"{VIDEO_ID}/{name}.tmp"), self.shop.absolute(self.path(name)))
            del self.away[name]

    def delete_row(self, name: str) -> None:
        """Somebody deletes the newest row."""
        if row := self.newest(name):
            self.rows.delete(row.id)
            self.known.remove(row)

    def point_back(self, name: str) -> None:
        """Somebody gives a row its local URL again."""
        for row in self.known:
            if row.name == name and row.status == "ready":
                self.rows.update(row.id, url=f"{BASE_URL}/{self.path(name)}")

    def delete_object(self, name: str) -> None:
        """Somebody deletes the object behind our back."""
        content = self.stored(name)
        if content is not None:
            self.server.client().delete_object(Bucket=BUCKET, Key=self.key(name))
            if content not in {self.on_disk(name), self.aside(name), self.away.get(name)}:
                self.excused.add(content)

    # Servers

    def break_s3(self, status: int) -> None:
        """S3 answers nothing but this until it is mended."""
        code = "SlowDown" if status == 503 else "AccessDenied"

        def refuse(request: Request, forward: Forward) -> Answer:
            return s3_error(status, code)

        self.proxy.fault = refuse

    def lose_answers(self) -> None:
        """S3 does what it is asked and never says so."""

        def lose(request: Request, forward: Forward) -> Answer | None:
            if request.action == "PutObject":
                forward()
                return None
            return forward()

        self.proxy.fault = lose

    def mend_s3(self) -> None:
        """S3 works again."""
        self.proxy.fault = no_fault

    # The daemon

    def settle(self, name: str) -> None:
        """An event says that something is there."""
        self._do(lambda: self.shop.settle(self.path(name)))

    def scan(self) -> None:
        """A full scan, the rows' sweep with it."""

        def scan() -> None:
            self.shop.house.scanner.scan()
            self.shop.sweep()
            for name in NAMES:
                self.shop.settle(self.path(name))

        self._do(scan)

    def ask(self) -> None:
        """The gate is asked."""
        self._do(self.shop.ask)

    def step(self, state: State) -> None:
        """A stage works on what is due: everything is, for nobody waits here."""
        self.rows.connection.execute(
            "UPDATE video_uploader.uploads SET due_at = now(), claimed_until = NULL WHERE NOT awaits_row"
        )
        self._do(lambda: self.shop.step(state))

    def watch(self) -> None:
        """The rows just published are looked at."""
        minder = self.shop.house.catalog_minder
        assert minder is not None
        self._do(minder.sweep.watch)

    def crash_at(self, step: Step) -> None:
        """The next time this step is reached is the last."""

        def crash(reached: Step) -> None:
            if reached is step:
                raise CrashError

        steps.hook = crash

    def restart(self) -> None:
        """A new life, from what is on the disk and in the database."""
        steps.hook = None
        self._stack.close()
        self._stack = ExitStack()
        self.shop = self._open()
        house = self.shop.house
        with suppress(DatabaseError, StorageError):
            house.ledger.unclaim_all()
            house.janitor.adopt_or_abort()
            house.asides.repair(house.scanner.scan().asides)

    def close(self) -> None:
        """The end of the example."""
        steps.hook = None
        self._stack.close()

    # What is true

    def path(self, name: str) -> str:
        return f"{VIDEO_ID}/{name}"

    def key(self, name: str) -> str:
        return f"videos/{VIDEO_ID}/{name}"

    def on_disk(self, name: str) -> bytes | None:
        """What is under the file's name."""
        return _content(self.shop.absolute(self.path(name)))

    def aside(self, name: str) -> bytes | None:
        """What is set aside and belongs to the file."""
        tree, ledger = self.shop.house.tree, self.shop.house.ledger
        for upload in ledger.uploads(path=self.path(name)):
            for path in asides_of(tree, self.path(name), upload.id):
                return _content(self.shop.absolute(path))
        return None

    def objects(self) -> dict[str, bytes | None]:
        """What S3 has, by file name: told by its ETag, which is the MD5 of what somebody once wrote."""
        listed: Any = self.server.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
        etags = {found["Key"]: found["ETag"].strip('"') for found in listed}
        return {name: self.contents.get(etags.get(self.key(name), "")) for name in NAMES}

    def stored(self, name: str) -> bytes | None:
        """What S3 has of one file."""
        return self.objects()[name]

    def newest(self, name: str) -> Row | None:
        """The file's newest row."""
        return next((row for row in reversed(self.known) if row.name == name), None)

    def processing(self, name: str) -> Row | None:
        """The row of the encode under way."""
        newest = self.newest(name)
        return newest if newest is not None and newest.status == "processing" else None

    def is_public(self, row: Row) -> bool:
        """Whether players are given the object."""
        return f"/{BUCKET}/videos/" in self.rows.url_of(row.id)

    def _destroy(self, name: str) -> None:
        """Somebody else than the daemon is about to destroy what is under a name."""
        content = self.on_disk(name)
        if content is not None and content != self.stored(name):
            self.excused.add(content)

    def _put(self, name: str, content: bytes) -> None:
        self.contents[hashlib.md5(content, usedforsecurity=False).hexdigest()] = content
        self.shop.write(self.path(name), content)

    def _new_content(self) -> bytes:
        """A complete video that nobody has seen before."""
        self.made += 1
        payload = self.made.to_bytes(8) + _TAIL
        return self.video + (len(payload) + 8).to_bytes(4) + b"free" + payload

    def _do(self, act: Callable[[], object]) -> None:
        try:
            act()
        except CrashError:
            self.restart()
        except (DatabaseError, StorageError, TreeError):
            # What the daemon's threads report and try again.
            return

    def _open(self) -> Workshop:
        return self._stack.enter_context(open_workshop(self.settings, self.server))


_TAIL = b"the end of a complete file"


def _quality(name: str) -> str:
    return name.rpartition("_")[2].removesuffix(".mp4")


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
