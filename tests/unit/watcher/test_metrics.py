"""What a scrape over HTTP returns."""

import re
from urllib.request import urlopen

import pytest

from tests.support.served_site import serving
from watcher.supervision.background_thread import Supervisor
from watcher.telemetry.metrics import CATALOG_GAUGES, LedgerGauges, Metrics


def scrape(metrics: Metrics) -> dict[str, float]:
    """The samples of a scrape over HTTP."""
    with serving(metrics.registry) as address, urlopen(f"http://{address}/metrics", timeout=10) as answer:
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
