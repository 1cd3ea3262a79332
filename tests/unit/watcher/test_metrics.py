"""What a scrape over HTTP returns."""

import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from structlog.testing import capture_logs

from tests.support.ports import free_address
from watcher.supervision.background_thread import Supervisor
from watcher.telemetry import metrics_server
from watcher.telemetry.metrics import CATALOG_GAUGES, DIRECTORY_GAUGES, LedgerGauges, Metrics
from watcher.telemetry.metrics_server import MAX_CONNECTIONS, MetricsServer

README = Path(__file__).parents[3] / "README.md"


@contextmanager
def serving(metrics: Metrics) -> Iterator[str]:
    """Serve metrics on a free port; yields the address."""
    address = free_address()
    server = MetricsServer(metrics, address)
    server.start()
    try:
        yield address
    finally:
        server.stop()


def scrape(metrics: Metrics) -> dict[str, float]:
    """The samples of a scrape over HTTP."""
    with serving(metrics) as address, urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_every_name_has_our_prefix(metrics: Metrics) -> None:
    metrics.registry.register(
        LedgerGauges(
            counts=lambda: {"pending": 3},
            settling=lambda: 0,
            paused=lambda: {"upload": False},
            catalog=lambda: dict.fromkeys(CATALOG_GAUGES, 1),
        )
    )
    metrics.setbacks.labels(stage="upload", kind="transient").inc()
    names = {re.split(r"[{ ]", sample)[0] for sample in scrape(metrics)}
    assert len(names) > 10
    # Those of the process have the names that Prometheus gives them.
    assert all(name.startswith(("video_uploader_", "process_")) for name in names)


def test_metrics_are_the_documented_ones(metrics: Metrics) -> None:
    metrics.registry.register(
        LedgerGauges(
            counts=dict,
            settling=lambda: 0,
            paused=dict,
            catalog=lambda: dict.fromkeys(CATALOG_GAUGES, 0),
            directories=lambda: dict.fromkeys(DIRECTORY_GAUGES, 0),
            line=lambda: 64_000.0,
        )
    )
    suffixes = {"counter": "_total"}
    exported = {family.name + suffixes.get(family.type, "") for family in metrics.registry.collect()}
    exported = {name for name in exported if not name.startswith("process_")}
    table = README.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(video_uploader_[a-z_]+)", table)) == exported


def test_counters_count(metrics: Metrics) -> None:
    metrics.bytes_sent.inc(1000)
    metrics.confirmed.labels(by="checksum").inc()
    metrics.upload_seconds.observe(2)
    sampled = scrape(metrics)
    assert sampled["video_uploader_sent_bytes_total"] == 1000
    assert sampled['video_uploader_confirmed_uploads_total{by="checksum"}'] == 1
    assert sampled['video_uploader_upload_seconds_bucket{le="5.0"}'] == 1
    assert sampled['video_uploader_upload_seconds_bucket{le="1.0"}'] == 0


def test_gauges_are_read_at_every_scrape(metrics: Metrics) -> None:
    counts = {"pending": 3, "failed": 0}
    paused = {"upload": True, "publish": False}
    catalog = {"awaiting_row_uploads": 5}
    metrics.registry.register(
        LedgerGauges(
            counts=lambda: counts, settling=lambda: 7, paused=lambda: paused, catalog=lambda: catalog
        )
    )
    sampled = scrape(metrics)
    assert sampled['video_uploader_uploads{state="pending"}'] == 3
    assert sampled["video_uploader_settling_files"] == 7
    assert sampled["video_uploader_awaiting_row_uploads"] == 5
    assert sampled['video_uploader_stage_paused{stage="upload"}'] == 1
    counts["pending"] = 2
    paused["upload"] = False
    sampled = scrape(metrics)
    assert sampled['video_uploader_uploads{state="pending"}'] == 2
    assert sampled['video_uploader_stage_paused{stage="upload"}'] == 0


def test_the_line_has_a_rate_once_it_was_measured(metrics: Metrics) -> None:
    rate: float | None = None
    metrics.registry.register(
        LedgerGauges(counts=dict, settling=lambda: 0, paused=dict, catalog=dict, line=lambda: rate)
    )
    assert "video_uploader_line_bytes_per_second" not in scrape(metrics)
    rate = 64_000.0
    assert scrape(metrics)["video_uploader_line_bytes_per_second"] == 64_000


def test_a_source_that_returns_nothing_gives_no_samples_and_the_rest_is_served(metrics: Metrics) -> None:
    metrics.registry.register(LedgerGauges(counts=dict, settling=lambda: 1, paused=dict, catalog=dict))
    sampled = scrape(metrics)
    assert not [name for name in sampled if name.startswith("video_uploader_uploads{")]
    assert sampled["video_uploader_settling_files"] == 1


def test_two_daemons_in_one_process_do_not_share_their_numbers(metrics: Metrics) -> None:
    metrics.published.inc()
    assert scrape(Metrics())["video_uploader_published_uploads_total"] == 0


def test_a_taken_port_is_a_warning_and_not_an_end(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = MetricsServer(metrics, address)
        with capture_logs() as logged:
            server.start()
        server.stop()
    (line,) = logged
    assert (line["event"], line["log_level"], line["address"]) == ("metrics_unavailable", "warning", address)
    assert "METRICS_ADDRESS" in line["hint"]


def test_a_host_that_is_not_this_one_is_a_warning_too(metrics: Metrics) -> None:
    for host in ("192.0.2.1", "a" * 70):
        with capture_logs() as logged:
            MetricsServer(metrics, f"{host}:9108").start()
        assert [line["event"] for line in logged] == ["metrics_unavailable"]


def test_an_empty_address_serves_nothing_and_says_nothing(metrics: Metrics) -> None:
    before = threading.active_count()
    server = MetricsServer(metrics, "")
    with capture_logs() as logged:
        server.start()
    assert logged == []
    assert threading.active_count() == before
    server.stop()


def test_afterwards_the_port_is_free_and_no_thread_is_left(metrics: Metrics) -> None:
    before = threading.active_count()
    with serving(metrics) as address, urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(URLError, match="refused"):
        urlopen(f"http://{address}/metrics", timeout=10)
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        pass
    assert threading.active_count() <= before + 1, "a handler may still be ending"


def connect(address: str) -> socket.socket:
    """A connection on which nothing was sent yet."""
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def is_ended(client: socket.socket) -> bool:
    """Whether the server ends the connection within ten seconds."""
    try:
        while client.recv(65536):
            continue
    except ConnectionResetError:
        return True
    return True


def handlers() -> list[threading.Thread]:
    """The threads that answer requests."""
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


def test_idle_connections_are_bounded_and_keep_no_scrape_from_its_answer(metrics: Metrics) -> None:
    """The newest connections stay, the oldest end, and no more threads than those run."""
    with serving(metrics) as address, ExitStack() as clients:
        idle = [clients.enter_context(connect(address)) for _ in range(5 * MAX_CONNECTIONS)]
        with urlopen(f"http://{address}/metrics", timeout=10) as answer:
            assert b"video_uploader_sent_bytes_total" in answer.read()
        assert len(handlers()) <= MAX_CONNECTIONS
        assert all(is_ended(client) for client in idle[: -MAX_CONNECTIONS + 1])
        assert not select.select(idle[-MAX_CONNECTIONS + 2 :], [], [], 0)[0]


def test_a_silent_connection_ends(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.1)
    with serving(metrics) as address, connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert is_ended(client)


def test_a_request_that_drips_ends(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not keep a connection beyond its deadline."""
    monkeypatch.setattr(metrics_server, "CONNECTION_SECONDS", 0.1)
    with serving(metrics) as address, connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nDrip: ")
        drips = 0
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(b"x")
            drips += 1
            assert drips < 200
        assert is_ended(client)


def test_a_client_that_does_not_read_the_answer_is_left(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTION_SECONDS", 0.1)
    monkeypatch.setattr(metrics_server._Handler, "timeout", 60)
    many = {f"{number:01000}": number for number in range(10_000)}
    metrics.registry.register(LedgerGauges(counts=lambda: many, settling=int, paused=dict, catalog=dict))
    with serving(metrics) as address, connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert select.select([client], [], [], 10)[0], "the answer has begun"
        (handler,) = handlers()
        handler.join(10)
        assert not handler.is_alive()


def test_a_request_of_endless_headers_is_refused(metrics: Metrics) -> None:
    headers = {f"X-{number}": "x" * 1000 for number in range(50)}
    with serving(metrics) as address, pytest.raises(HTTPError, match="431"):
        urlopen(Request(f"http://{address}/metrics", headers=headers), timeout=10)


def test_a_gauge_that_fails_is_a_line_of_the_log(metrics: Metrics) -> None:
    def broken() -> int:
        raise ZeroDivisionError("broken\non purpose")

    metrics.registry.register(LedgerGauges(counts=dict, settling=broken, paused=dict, catalog=dict))
    with capture_logs() as logged, serving(metrics) as address, connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert is_ended(client)
    assert [(line["event"], line["reason"]) for line in logged] == [
        ("metrics_unanswered", "ZeroDivisionError: broken\\non purpose")
    ]


def test_the_process_and_its_version_are_there_labelled_counters_begin_at_zero_and_none_has_a_creation_time(
    metrics: Metrics,
) -> None:
    sampled = scrape(metrics)
    assert any(name.startswith("video_uploader_build_info{") for name in sampled)
    assert sampled["process_resident_memory_bytes"] > 0
    assert sampled['video_uploader_setbacks_total{kind="environment",stage="release"}'] == 0
    assert sampled['video_uploader_confirmed_uploads_total{by="reading"}'] == 0
    assert not [name for name in sampled if "_created" in name]


def test_a_thread_is_there_before_it_fails_and_counts_its_restarts(metrics: Metrics) -> None:
    supervisor = Supervisor(metrics)
    supervisor.count_from_zero("scan")
    name = 'video_uploader_thread_restarts_total{thread="scan"}'
    assert scrape(metrics)[name] == 0
    supervisor.seconds_to_restart(supervisor.record("scan", ValueError("odd")))
    assert scrape(metrics)[name] == 1
