"""The alerts and the dashboard: judged by Prometheus' own tool, and by the metrics there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "systemd/prometheus/alerts.yml"
DASHBOARD = ROOT / "systemd/grafana/dashboard.json"
RUNBOOK = ROOT / "docs/operations.md"
OF_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Prometheus' tool beside the alerts; the test is skipped where it is not installed."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed; Debian's package is called prometheus")
    return subprocess.run(
        ["promtool", *map(str, arguments)],
        cwd=ALERTS.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def documented() -> set[str]:
    """The series of the documented metrics, which another test compares with the exported ones."""
    table = (ROOT / "docs/metrics.md").read_text()
    names = set(re.findall(r"`(video_uploader_[a-z_]+)", table))
    found = re.findall(r"`(video_uploader_[a-z_]+)(?:\{[a-z,]+\})?`[^\n]*histogram", table)
    histograms = {f"{name}_{part}" for name in found for part in ("bucket", "sum", "count")}
    return names | histograms | OF_PROCESS


def metrics_in(expressions: Iterator[str]) -> set[str]:
    """The metrics that PromQL expressions name."""
    return {name for one in expressions for name in re.findall(r"\b(?:video_uploader|process)_\w+", one)}


def alerts() -> list[str]:
    """The names of the alerts, in their order."""
    return re.findall(r"- alert: (\w+)", ALERTS.read_text())


def test_prometheus_accepts_the_alerts() -> None:
    verdict = promtool("check", "rules", ALERTS.name)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert f"{len(alerts())} rules found" in verdict.stdout


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    tested = (ALERTS.parent / "alerts_test.yml").read_text()
    assert set(re.findall(r"alertname: (\w+)", tested)) == set(alerts())
    verdict = promtool("test", "rules", "alerts_test.yml")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    expressions = re.findall(r"expr: (.+)", ALERTS.read_text())
    assert metrics_in(iter(expressions)) - documented() == set()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = metrics_in(target["expr"] for panel in panels for target in panel["targets"])
    assert shown - documented() == set()
    assert len(shown) > 10
    ids, places = [one["id"] for one in panels], [tuple(one["gridPos"].values()) for one in panels]
    assert len({*ids}) == len({*places}) == len(panels)


def test_every_alert_has_a_section_in_the_runbook_and_a_link_to_it() -> None:
    runbook = RUNBOOK.read_text().partition("\n## Runbook\n")[2]
    sections = re.findall(r"^### (\w+)$", runbook, re.MULTILINE)
    assert sections == alerts()
    linked = re.findall(r"runbook: docs/operations\.md#(\w+)", ALERTS.read_text())
    assert linked == [name.lower() for name in alerts()]
