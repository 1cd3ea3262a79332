"""The commands of docs/operations.md, as written: install, upgrade, rollback, backup, restore, uninstall."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.media import Media
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server
from tests.support.source_tree import ROOT
from tests.systemd.compressor import COMPLETED, Compressor
from tests.systemd.conftest import UNIT, Service
from tests.systemd.documents import block, blocks, commands
from tests.systemd.machine import BASE, PACKAGE, Machine
from tests.systemd.test_package import everything

pytestmark = pytest.mark.timeout(1200)

DOCUMENT = "docs/operations.md"
NEWER = "9999_newer"
NOT_RUN = {
    ("docs/library.md", "Install it in a virtual environment of its own"): "tests/release installs `storage`",
}
"""The sections whose blocks no test here runs, and why."""

NOT_RUN_HERE = {
    "dpkg -i build/video-uploader_*.deb": "test_package installs packages",
    "promtool check rules": "test_prometheus calls it",
    "promtool test rules": "test_prometheus calls it",
    "sysctl fs.inotify.max_user_watches=1048576": "it would change the kernel of all machines",
    "systemctl enable --now video-uploader@NAME": "test_service starts a template",
    "video-uploader --service video-uploader@NAME status": "test_service calls it for an instance",
    "video-uploader status --watch": "it does not end by itself",
    "video-uploader systemd install --user COMPRESSOR": "every test of the service begins with it",
}
"""The commands in the text of the documents that the test of all of them does not run, and why."""

OTHER_IDS = (
    "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "1b4e28ba-2fa1-4d3e-883f-0016d3cca427",
    "6ba7b810-9dad-41d1-80b4-00c04fd430c8",
)
EARLIER, KEPT, RELEASED, LATER = (f"{video_id}/clip_144p.mp4" for video_id in (VIDEO_ID, *OTHER_IDS))


def test_every_block_of_the_documents_is_run_or_it_is_said_why_not() -> None:
    """A block is run if a test asks for it by its section and a word of it."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(ROOT, "tests/systemd").glob("*.py"))
    asked = re.findall(r'block\((?:DOCUMENT|"([^"]+)"), "([^"]+)"(?:, "([^"]+)")?\)', tests)
    left = {
        (document, each.heading)
        for document in (os.path.relpath(path, ROOT) for path in glob.glob(f"{ROOT}/docs/*.md"))
        for each in blocks(document)
        if not any(
            (page or DOCUMENT, heading) == (document, each.heading) and word in each.text
            for page, heading, word in asked
        )
    }
    assert left == NOT_RUN.keys()


def test_every_command_in_the_text_of_the_documents_succeeds(service: Service) -> None:
    service.put(EARLIER)
    service.start()
    service.wait_for("upload_published")
    named = {each for page in ("operations", "compressor", "fleet") for each in commands(f"docs/{page}.md")}
    assert NOT_RUN_HERE.keys() <= named
    for command in sorted(named - NOT_RUN_HERE.keys()):
        service.machine.sh(command.replace("PATH", EARLIER))
    assert service.machine.shows(UNIT, "ActiveState") == "active"


def ledger(service: Service) -> dict[str, dict[str, object]]:
    """What the ledger has of the uploads, by path. When they are due is calculated anew at each start."""
    rows = json.loads(service.machine.must(*service.command("list", "--json")))
    return {row["path"]: {**row, "due_at": None} for row in rows}


def states(service: Service) -> dict[str, object]:
    """The states of the uploads, by path."""
    return {path: row["state"] for path, row in ledger(service).items()}


def completions(proxy: FaultProxy) -> dict[str, int]:
    """How often the content of each object was sent, apart from those by which the server is probed."""
    sent = [each for each in proxy.requests if each.action in {"PutObject", "CompleteMultipartUpload"}]
    paths = [urlsplit(each.path).path.removeprefix(f"/{BUCKET}/videos/") for each in sent]
    return Counter(path for path in paths if not path.startswith("."))


@pytest.fixture
def proxied(service: Service, proxy: FaultProxy) -> Service:
    """The service, whose requests to S3 are recorded."""
    service.settings["AWS_ENDPOINT_URL"] = proxy.url
    service.configure()
    return service


def lay_out_packages(service: Service) -> None:
    """Put the installed package, and a newer one with one more migration, where the commands take them."""
    (older,) = glob.glob(f"{BASE}/{PACKAGE}_*.deb")
    shared = Path(service.machine.shared)
    content = shared / "content"
    subprocess.run(["dpkg-deb", "--raw-extract", older, content], check=True)
    site = content / "opt/video-uploader/lib/python3.11/site-packages"
    (metadata,) = site.glob("video_uploader-*.dist-info/METADATA")
    for described in (content / "DEBIAN/control", metadata):
        text = described.read_text(encoding="utf-8")
        described.write_text(re.sub(r"(?m)^Version: .*", "Version: 9.9.9", text, count=1), encoding="utf-8")
    last = (site / "db/migrations/0017_notifications.py").read_text(encoding="utf-8")
    (site / f"db/migrations/{NEWER}.py").write_text(last.replace("notifications", "newer"), encoding="utf-8")
    for directory in ("build", "older"):
        (shared / directory).mkdir()
    shutil.copy(older, shared / "older")
    newer = shared / "build/video-uploader_9.9.9_amd64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", content, newer], check=True)
    shutil.rmtree(content)


def test_an_upgrade_and_the_way_back_lose_nothing_and_send_nothing_twice(
    proxied: Service, proxy: FaultProxy
) -> None:
    """The upgrade comes in the middle of an upload, and after it there are uploads that the backup lacks."""
    service, machine = proxied, proxied.machine
    lay_out_packages(service)
    service.put(EARLIER)
    service.start()
    service.wait_for("upload_published")
    machine.sh(block(DOCUMENT, "Backup of the ledger", "ledger.sqlite3"))
    before = ledger(service)
    service.reload(MAX_BANDWIDTH="1MB/s")
    service.put(KEPT, size=24 * 1024 * 1024)
    service.wait_for("upload_started", 2)
    service.configure()

    first = machine.shows(UNIT, "MainPID")
    said = machine.sh(block(DOCUMENT, "Upgrade", "apt"))
    assert "video-uploader 9.9.9" in said
    assert f"Version: {NEWER}" in said
    assert machine.shows(UNIT, "ActiveState") == "active"
    assert machine.shows(UNIT, "MainPID") != first
    service.put(RELEASED)
    service.wait_for("upload_published", 3)
    machine.must(*service.command("release", RELEASED))
    machine.wait_for(lambda: states(service)[RELEASED] == "released", "the release")

    machine.sh(block(DOCUMENT, "Rollback"))
    machine.must("systemctl", "start", "--no-block", UNIT)
    machine.wait_until(UNIT, "StatusText", f"Cannot start yet: .*newer version.*{NEWER}.*restore the backup")

    machine.sh(block(DOCUMENT, "Restore", "ledger.sqlite3"))
    assert "9.9.9" not in machine.must(*service.command("--version"))
    assert '"event": "ledger_older"' in machine.journal(UNIT)
    service.put(LATER)
    published = {EARLIER: "published", KEPT: "published", RELEASED: "released", LATER: "published"}
    machine.wait_for(lambda: states(service) == published, f"the uploads {published}")
    assert before.keys() == {EARLIER}
    assert ledger(service)[EARLIER] == before[EARLIER]
    machine.must(*service.command("audit"))
    assert completions(proxy) == dict.fromkeys(published, 1)


def test_a_backup_on_postgresql_is_restored_and_nothing_is_sent_twice(
    proxied: Service, compressor: Compressor, proxy: FaultProxy
) -> None:
    """What was published since the backup is recognized. Without our tables the published URLs stay."""
    service, machine = proxied, proxied.machine
    service.start()

    def compress(video_id: str) -> None:
        compressor.compress(video_id, "clip.mp4")
        rows = compressor.rows(video_id)
        assert len(rows) == 4
        machine.wait_for(
            lambda: all(row.url.startswith(proxy.url) for row in compressor.rows(video_id).values()),
            f"the publication of {video_id}",
        )

    compress(VIDEO_ID)
    machine.sh(block(DOCUMENT, "Backup of the ledger", "pg_dump"))
    before = ledger(service)
    compress(OTHER_IDS[0])
    after = states(service)
    machine.must("systemctl", "stop", UNIT)
    machine.sh(block(DOCUMENT, "Restore", "psql"))
    machine.wait_for(lambda: states(service) == after, f"the uploads {after}")
    assert len(before) == 4
    assert len(after) == 8
    assert {path: row for path, row in ledger(service).items() if path in before} == before
    machine.must(*service.command("audit"))
    assert completions(proxy) == dict.fromkeys(completions(proxy), 1)

    rows = [compressor.rows(video_id) for video_id in (VIDEO_ID, OTHER_IDS[0])]
    machine.must("systemctl", "stop", UNIT)
    compressor.sql(block(DOCUMENT, "Uninstall", "DROP SCHEMA"))
    assert compressor.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'video_uploader'") == ""
    assert [compressor.rows(video_id) for video_id in (VIDEO_ID, OTHER_IDS[0])] == rows


def test_the_program_runs_in_the_foreground_beside_no_service(service: Service) -> None:
    """As the compressor's user, whose environment has what the commands leave out: the key and the server."""
    service.put(EARLIER)
    service.settings["AWS_S3_BUCKET"] = BUCKET
    given = [f"--setenv={name}={value}" for name, value in service.settings.items()]
    script = block(DOCUMENT, "Without a service").replace("AWS_S3_BUCKET=my-videos", "")
    unit = ("--unit=foreground", "--uid=compressor", "--property=StateDirectory=tried")
    service.machine.must("systemd-run", "--quiet", *unit, *given, "sh", "-euxc", script)

    def journal() -> str:
        return service.machine.journal("foreground.service")

    service.machine.wait_for(lambda: '"event": "upload_published"' in journal(), "the publication")
    before = journal().partition("+ video-uploader run\n")[0]
    assert f"COMPLETED_DIR  {COMPLETED}" in re.sub(" +", "  ", before)
    assert EARLIER in before, before
    service.machine.must("systemctl", "stop", "foreground.service")


@pytest.fixture
def source(machine: Machine) -> Path:
    """A copy of the repository in a machine without the package, where the commands run."""
    machine.sh(f"dpkg --purge {PACKAGE}; mkdir -p /opt")
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "watcher", "storage", "db"):
        path = os.path.join(ROOT, name)
        copied = os.path.join(machine.shared, name)
        shutil.copytree(path, copied) if os.path.isdir(path) else shutil.copy(path, copied)
    return Path(machine.shared)


def test_without_the_package_it_is_installed_upgraded_and_removed(
    machine: Machine, source: Path, server: S3Server, media: Media
) -> None:
    """In a virtual environment. The editor is one that adds the bucket's settings."""
    settings = (
        f"AWS_ENDPOINT_URL={server.url}\nAWS_S3_BUCKET={BUCKET}\nAWS_REGION={REGION}\nHTTP_ADDRESS=\n"
        f"AWS_ACCESS_KEY_ID={ACCESS_KEY_ID}\nAWS_SECRET_ACCESS_KEY={SECRET_ACCESS_KEY}\nSETTLE_SECONDS=1\n"
    )
    machine.write("/usr/local/bin/editor", f"#!/bin/sh\ncat >>$1 <<END\n{settings}END\n", mode=0o755)
    machine.must("useradd", "--system", "--user-group", "compressor")
    machine.must("install", "-d", "-o", "compressor", "-g", "compressor", COMPLETED)
    before = everything(machine)
    install = block(DOCUMENT, "Install", "pip")
    machine.sh(install.replace("COMPRESSOR", "compressor").replace("COMPLETED_DIR", COMPLETED))
    assert machine.shows(UNIT, "ActiveState") == "active"
    shutil.copy(media.faststart, source / "clip.mp4")
    owned = ("install", "-o", "compressor", "-g", "compressor")
    machine.must(*owned, "-D", f"{source}/clip.mp4", f"{COMPLETED}/{EARLIER}")
    machine.wait_for(lambda: '"event": "upload_published"' in machine.journal(UNIT), "the publication")

    project = source / "pyproject.toml"
    project.write_text(re.sub(r'(?m)^version = ".*"', 'version = "9.9.9"', project.read_text()))
    machine.sh(block(DOCUMENT, "Upgrade", "pip"))
    assert machine.must("video-uploader", "--version") == "video-uploader 9.9.9\n"
    assert machine.shows(UNIT, "ActiveState") == "active"

    machine.sh(block(DOCUMENT, "Uninstall", "systemd uninstall"))
    assert machine.shows(UNIT, "ActiveState") == "inactive"
    assert everything(machine) - before == set()
    machine.must("test", "-e", f"{COMPLETED}/{EARLIER}")
