"""An interrupted upload resumes: only the parts that the server lacks are sent again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from storage import Multipart, ObjectStore, SourceChangedError, UploadCancelledError, Verdict
from tests.conformance.backends import Backend, proxy_before
from tests.conformance.files import MIB, content_of, make_file, source_of
from tests.conformance.uploads import StopAfterParts, Watched, parts_sent
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PART = 8 * MIB
PARTS = 5
SIZE = PARTS * PART - 3 * MIB

Interrupt = Callable[[Backend, str, str, int], Multipart]


def kill(backend: Backend, path: str, key: str, parts: int) -> Multipart:
    """SIGKILL a process that uploads, when the server has `parts` parts."""
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": backend.access_key_id,
        "AWS_SECRET_ACCESS_KEY": backend.secret_access_key,
    }
    with proxy_before(backend) as proxy:
        command = [sys.executable, "-m", "tests.conformance.sender"]
        command += [proxy.url, backend.region, backend.bucket, key, path]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            # Before the process can have sent anything: it has yet to be loaded.
            proxy.fault = fault = StopAfterParts(parts, process.kill)
            said, _ = process.communicate(timeout=50)
            fault.give_up()
        assert process.returncode == -signal.SIGKILL
    upload_id, part_size = said.split()
    return Multipart(upload_id, int(part_size))


def cancel(backend: Backend, path: str, key: str, parts: int) -> Multipart:
    """Cancel an upload in this process, when the server has `parts` parts."""
    watched = Watched()
    with (
        proxy_before(backend) as proxy,
        ObjectStore(backend.config(proxy.url)) as store,
        source_of(path) as source,
    ):
        proxy.fault = fault = StopAfterParts(parts, watched.stop.set)
        with pytest.raises(UploadCancelledError):
            watched.send(store, source, key)
        fault.give_up()
    (multipart,) = watched.multiparts
    return multipart


@pytest.mark.parametrize("parts", [0, 3, PARTS])
@pytest.mark.parametrize("interrupt", [kill, cancel])
def test_what_is_there_already_is_not_sent_again(
    backend: Backend,
    store: ObjectStore,
    proxy: FaultProxy,
    key: str,
    path: str,
    interrupt: Interrupt,
    parts: int,
) -> None:
    make_file(path, SIZE)
    multipart = interrupt(backend, path, key, parts)
    assert backend.content(key) is None
    assert [found.upload_id for found in store.open_multiparts(key)] == [multipart.upload_id]

    watched = Watched()
    with source_of(path) as source:
        sent = watched.send(store, source, key, resume=multipart)
        confirmation = store.confirm_file(key, source, checksum=source.checksum(), part_size=PART)
    assert parts_sent(proxy.requests) == list(range(parts + 1, PARTS + 1))
    assert confirmation.verdict is Verdict.AGREES, confirmation.detail
    assert backend.content(key) == content_of(path)
    assert sent.part_size == PART
    assert not watched.multiparts
    assert not list(store.open_multiparts(key))

    kept = min(parts * PART, SIZE)
    assert watched.progress == sorted(watched.progress)
    assert len(watched.progress) == len(set(watched.progress))
    assert watched.progress[-1] == SIZE
    assert kept in [0, *watched.progress]


def test_parts_that_are_listed_in_pages_are_all_found(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str
) -> None:
    """A server lists at most 1,000 parts at once; here it is asked for two."""
    if backend.traits.checks_signatures:
        pytest.skip(f"{backend.name} checks signatures, so its questions cannot be changed on the way")
    make_file(path, SIZE)
    multipart = cancel(backend, path, key, 4)

    def in_pages(request: Request, forward: Forward) -> Answer | None:
        if request.method == "GET" and "max-parts=" in request.path:
            shorter = request.path.replace("max-parts=1000", "max-parts=2")
            assert shorter != request.path
            return proxy._forward(replace(request, path=shorter))
        return forward()

    proxy.fault = in_pages
    with source_of(path) as source:
        Watched().send(store, source, key, resume=multipart)
    assert parts_sent(proxy.requests) == [5]
    assert proxy.actions.count("GET") > 1
    assert backend.content(key) == content_of(path)


def test_a_part_of_other_content_is_sent_again(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str
) -> None:
    """The file was rewritten in its second part between two attempts; its size is the same."""
    make_file(path, SIZE)
    multipart = cancel(backend, path, key, 3)
    with open(path, "r+b") as file:
        file.seek(PART + 5)
        file.write(b"other content")
    with source_of(path) as source:
        Watched().send(store, source, key, resume=multipart)
    sent = parts_sent(proxy.requests)
    if backend.traits.replaces_parts:
        assert sent == [2, 4, 5]
    else:
        assert Counter(sent) >= Counter([1, 2, 3, 4, 5])
        assert "AbortMultipartUpload" in proxy.actions
    assert not list(store.open_multiparts(key))
    assert backend.content(key) == content_of(path)


def test_an_upload_that_the_server_has_forgotten_starts_anew(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str
) -> None:
    make_file(path, SIZE)
    multipart = cancel(backend, path, key, 3)
    store.abort(key, multipart.upload_id)
    watched = Watched()
    with source_of(path) as source:
        watched.send(store, source, key, resume=multipart)
    (begun,) = watched.multiparts
    assert begun.upload_id != multipart.upload_id
    assert parts_sent(proxy.requests) == [1, 2, 3, 4, 5]
    assert backend.content(key) == content_of(path)


def test_an_upload_can_be_broken_off_again_and_again(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str
) -> None:
    make_file(path, SIZE)
    multipart = cancel(backend, path, key, 2)
    watched = Watched()
    proxy.fault = fault = StopAfterParts(4, watched.stop.set, arrived=[1, 2])
    with source_of(path) as source, pytest.raises(UploadCancelledError):
        watched.send(store, source, key, resume=multipart)
    fault.give_up()
    assert not watched.multiparts
    with (
        proxy_before(backend) as third,
        ObjectStore(backend.config(third.url)) as later,
        source_of(path) as source,
    ):
        Watched().send(later, source, key, resume=multipart)
        assert parts_sent(third.requests) == [5]
    assert backend.content(key) == content_of(path)


def truncate(path: str) -> None:
    """As an encoder does before it writes anew."""
    os.truncate(path, PART)


def grow(path: str) -> None:
    """As a writer that appends."""
    os.truncate(path, SIZE + 1)


def rewrite(path: str) -> None:
    """In place: size and inode stay."""
    with open(path, "r+b") as file:
        file.seek(SIZE - 100)
        file.write(b"other content")


@pytest.mark.parametrize("change", [truncate, grow, rewrite])
def test_a_file_that_changes_meanwhile_becomes_no_object_and_leaves_nothing_open(
    backend: Backend,
    store: ObjectStore,
    proxy: FaultProxy,
    key: str,
    path: str,
    change: Callable[[str], None],
) -> None:
    make_file(path, SIZE)

    def change_it(request: Request, forward: Forward) -> Answer | None:
        if request.action == "UploadPart" and request.part_number == 2:
            change(path)
        return forward()

    proxy.fault = change_it
    with source_of(path) as source, pytest.raises(SourceChangedError):
        Watched().send(store, source, key)
    assert "CompleteMultipartUpload" not in proxy.actions
    assert backend.content(key) is None
    assert not list(store.open_multiparts(key))
