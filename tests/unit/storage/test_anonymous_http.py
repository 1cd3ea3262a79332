"""The client without credentials: http and https only, bounded in time and size."""

import socket
import threading
import time
from contextlib import closing

import pytest

from storage import ErrorKind, StorageError
from storage.anonymous_http import MAX_BODY_BYTES, AnonymousHttp
from tests.support.fault_proxy import Answer, FaultProxy


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "nonsense", "http://a b/"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        AnonymousHttp().fetch(url)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "bad-settings")


def test_a_redirect_is_returned_as_an_answer(proxy: FaultProxy) -> None:
    proxy.fault = lambda _request, _forward: Answer(302, {"location": f"{proxy.url}/other"})
    assert AnonymousHttp().fetch(f"{proxy.url}/one").status == 302
    assert len(proxy.requests) == 1


def test_redirects_are_followed_up_to_the_limit(proxy: FaultProxy) -> None:
    proxy.fault = lambda _request, _forward: Answer(302, {"location": "/other"})
    assert AnonymousHttp().fetch(f"{proxy.url}/one", max_redirects=2).status == 302
    assert [request.path for request in proxy.requests] == ["/one", "/other", "/other"]


def test_a_body_is_read_up_to_the_limit(proxy: FaultProxy) -> None:
    proxy.fault = lambda _request, _forward: Answer(200, {}, b"x" * (MAX_BODY_BYTES + 5))
    assert len(AnonymousHttp().fetch(proxy.url).body) == MAX_BODY_BYTES


def test_a_body_is_returned_as_it_was_sent(proxy: FaultProxy) -> None:
    proxy.fault = lambda _request, _forward: Answer(200, {"content-encoding": "gzip"}, b"not gzip")
    assert AnonymousHttp().fetch(proxy.url).body == b"not gzip"


def test_a_body_that_drips_is_given_up() -> None:
    stopped = threading.Event()

    def drip() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not stopped.wait(0.02):
                connection.sendall(b"x")

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        started = time.monotonic()
        try:
            with pytest.raises(StorageError) as caught:
                AnonymousHttp(timeout=0.3).fetch(f"http://127.0.0.1:{server.getsockname()[1]}/")
        finally:
            stopped.set()
            thread.join()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "timeout")
    assert time.monotonic() - started < 5


def test_the_proxys_credentials_are_sent_to_it(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.fault = lambda _request, _forward: Answer(200)
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//user:word@"))
    AnonymousHttp().fetch("http://cdn.example/x")
    (request,) = proxy.requests
    assert request.path == "http://cdn.example/x"
    assert request.headers["Proxy-Authorization"] == "Basic dXNlcjp3b3Jk"
