"""The service under a real systemd: what an operator does with it, sees of it, and what happens to it."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.fault_proxy import FaultProxy, no_fault, s3_error
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.s3_server import SECRET_ACCESS_KEY, S3Server
from tests.systemd.compressor import COMPLETED
from tests.systemd.conftest import ENV_FILE, UNIT, Service

pytestmark = pytest.mark.timeout(1200)

CLIP = f"{VIDEO_ID}/clip_144p.mp4"
WATCHDOG = "WatchdogSec=4"


def keys(server: S3Server) -> set[str]:
    """The keys of all objects."""
    return {found["Key"] for found in server.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def test_what_the_compressor_finishes_is_published_by_the_service_it_is_started_beside(
    service: Service, server: S3Server
) -> None:
    service.put(CLIP)
    service.start()
    assert service.machine.shows(UNIT, "ActiveState") == "active"
    service.wait_for("upload_published")
    assert keys(server) == {f"videos/{CLIP}"}
    service.machine.wait_until(UNIT, "StatusText", "Waiting for videos")


def test_root_sees_the_ledger_of_the_service_and_makes_nothing_of_its_own(
    service: Service,
) -> None:
    service.put(CLIP)
    service.start()
    service.wait_for("upload_published")
    ran = service.machine.run(*service.command("list", "--json"))
    assert "runs as video-uploader.service does: user compressor" in ran.err
    assert [row["path"] for row in json.loads(ran.out)] == [CLIP]
    service.machine.must("systemctl", "stop", UNIT)
    service.machine.must(*service.command("db", "migrate"))
    owners = service.machine.must("find", "/var/lib/video-uploader", "-printf", "%u\n").split()
    assert set(owners) == {"compressor"}
    shown = json.loads(service.machine.run(*service.command("config", "--json")).out)
    assert shown["AWS_S3_BUCKET"] == {"value": BUCKET, "source": ENV_FILE}
    assert shown["COMPLETED_DIR"] == {"value": COMPLETED, "source": "environment"}


@pytest.mark.parametrize("directive", ["LoadCredential", "LoadCredentialEncrypted"])
def test_root_has_the_credentials_of_the_service_also_while_it_does_not_run(
    service: Service, server: S3Server, directive: str
) -> None:
    """Before its first start, too, which is when `doctor` is wanted most."""
    machine, file = service.machine, "/etc/video-uploader.aws-credentials"
    names = ("aws_access_key_id", "aws_secret_access_key")
    lines = [f"{name}={service.settings.pop(name.upper())}" for name in names]
    service.configure()
    machine.write(file, "\n".join(["[default]", *lines, ""]), mode=0o600)
    if directive == "LoadCredentialEncrypted":
        machine.must("systemd-creds", "encrypt", "--with-key=host", "--name=aws", file, f"{file}.cred")
        machine.must("mv", f"{file}.cred", file)
    service.drop_in(f"{directive}=aws:{file}\nEnvironment=AWS_SHARED_CREDENTIALS_FILE=%d/aws")

    def outcome() -> str:
        checks = json.loads(machine.run(*service.command("doctor", "--json")).out)
        return str(next(check["outcome"] for check in checks if check["name"] == "credentials"))

    assert outcome() == "ok"
    service.put(CLIP)
    service.start()
    service.wait_for("upload_published")
    assert keys(server) == {f"videos/{CLIP}"}
    assert outcome() == "ok"
    machine.must("systemctl", "stop", UNIT)
    assert outcome() == "ok"


def test_a_reload_applies_right_settings_and_keeps_the_old_ones_before_wrong_ones(service: Service) -> None:
    service.start()
    service.configure(LOG_LEVEL="DEBUG")
    service.machine.must("systemctl", "reload", UNIT)
    service.wait_for("settings_reloaded")
    service.configure(LOG_LEVEL="loud")
    service.machine.must("systemctl", "reload", UNIT)
    service.wait_for("reload_refused")
    assert service.machine.shows(UNIT, "ActiveState") == "active"
    assert service.machine.shows(UNIT, "NRestarts") == "0"


def test_the_journal_tells_warnings_from_the_rest(service: Service) -> None:
    service.configure(KEEP_LOCALS="true")
    service.start()
    warnings = service.machine.journal(UNIT, "-p", "warning").splitlines()
    assert [json.loads(line)["event"] for line in warnings if line.startswith("{")] == ["setting_doubtful"]
    assert '"event": "daemon_ready"' in service.machine.journal(UNIT)


def test_a_daemon_that_makes_no_progress_is_restarted_by_the_watchdog(service: Service) -> None:
    service.drop_in(WATCHDOG)
    service.start()
    first = service.machine.shows(UNIT, "MainPID")
    service.machine.must("systemctl", "kill", "--signal=STOP", UNIT)
    service.machine.wait_until(UNIT, "NRestarts", "^1$")
    service.machine.wait_until(UNIT, "ActiveState", "^active$")
    service.put(CLIP)
    service.wait_for("upload_published")
    assert service.machine.shows(UNIT, "MainPID") != first


def test_a_daemon_that_is_killed_is_restarted_and_goes_on(service: Service) -> None:
    service.start()
    service.machine.must("systemctl", "kill", "--signal=KILL", UNIT)
    service.machine.wait_until(UNIT, "NRestarts", "^1$")
    service.put(CLIP)
    service.wait_for("upload_published")


def test_wrong_settings_end_the_service_and_are_named(service: Service) -> None:
    service.configure(UPLOAD_CONCURRENCY="many")
    assert service.machine.run("systemctl", "start", UNIT).code != 0
    assert service.machine.shows(UNIT, "ExecMainStatus") == "2"
    assert service.machine.shows(UNIT, "NRestarts") == "0"
    assert "UPLOAD_CONCURRENCY" in service.machine.journal(UNIT, "-p", "err")


def test_a_missing_bucket_is_said_where_an_operator_looks(service: Service, server: S3Server) -> None:
    service.configure(AWS_S3_BUCKET="another-bucket")
    service.put(CLIP)
    service.start()
    service.machine.wait_until(UNIT, "StatusText", "upload.* paused: .*NoSuchBucket")
    assert '"event": "stage_paused"' in service.machine.journal(UNIT, "-p", "warning")
    service.configure()
    service.machine.must("systemctl", "restart", UNIT)
    service.wait_for("upload_published")
    assert keys(server) == {f"videos/{CLIP}"}


def test_an_upload_in_progress_is_left_in_time_and_continued(service: Service, server: S3Server) -> None:
    service.configure(MAX_BANDWIDTH="1MB/s")
    service.start()
    service.put(CLIP, size=24 * 1024 * 1024)
    service.wait_for("upload_started")
    service.machine.must("systemctl", "stop", UNIT)
    assert service.machine.shows(UNIT, "Result") == "success"
    assert keys(server) == set()
    service.configure()
    service.machine.must("systemctl", "start", UNIT)
    service.wait_for("upload_published")
    assert keys(server) == {f"videos/{CLIP}"}


def test_a_directory_that_is_missing_is_our_sentence_and_is_waited_for(service: Service) -> None:
    service.machine.must("rmdir", COMPLETED)
    service.machine.must("systemctl", "start", "--no-block", UNIT)
    service.machine.wait_until(UNIT, "StatusText", f"Cannot start yet: .*{COMPLETED}")
    assert service.machine.shows(UNIT, "ActiveState") == "activating"
    assert COMPLETED in service.machine.journal(UNIT, "-p", "err")
    service.machine.must("install", "-d", "-o", "compressor", "-g", "compressor", COMPLETED)
    service.machine.wait_until(UNIT, "ActiveState", "^active$")
    assert service.machine.shows(UNIT, "NRestarts") == "0"


def test_uninstalling_stops_the_service_and_leaves_ledger_and_edited_settings(service: Service) -> None:
    service.start()
    removed = service.machine.must(*service.command("systemd", "uninstall"))
    assert f"/etc/systemd/system/{UNIT}.d/10-compressor.conf" in removed
    assert service.machine.shows(UNIT, "ActiveState") == "inactive"
    left = service.machine.must(
        "sh", "-c", "find /etc -name '*video-uploader*'; ls -d /var/lib/video-uploader*"
    )
    assert set(left.split()) == {ENV_FILE, "/var/lib/video-uploader"}


def test_the_template_runs_for_a_directory_with_settings_of_its_own(
    service: Service, server: S3Server
) -> None:
    unit, other = "video-uploader@other.service", "/srv/videos/other"
    service.machine.must("install", "-d", "-o", "compressor", "-g", "compressor", other)
    text = "".join(
        f"{name}={value}\n" for name, value in {**service.settings, "COMPLETED_DIR": other}.items()
    )
    service.machine.write("/etc/video-uploader@other.env", text, mode=0o640, owner="root:compressor")
    own = f"[Service]\nUser=compressor\nGroup=compressor\nReadWritePaths={other}\n"
    service.machine.write(f"/etc/systemd/system/{unit}.d/own.conf", own)
    service.put(CLIP)
    service.start()
    service.machine.must("systemctl", "start", unit)
    service.wait_for("upload_published")
    assert service.machine.shows(unit, "ActiveState") == "active"
    service.put(CLIP.replace("144p", "240p"), directory=other)
    chosen = service.command("--service", "video-uploader@other", "list", "--json")

    def published() -> bool:
        return [row["state"] for row in json.loads(service.machine.must(*chosen))] == ["published"]

    service.machine.wait_for(published, "the other directory's video")
    (row,) = json.loads(service.machine.must(*service.command("list", "--json")))
    assert row["path"] == CLIP
    refused = service.machine.run(*service.command("--service", "sshd", "status"))
    assert (refused.code, "sshd is no unit of this program" in refused.err) == (2, True)


def test_a_wrong_key_is_said_by_systemctl_status_and_the_journal_until_it_is_right(
    service: Service, proxy: FaultProxy, server: S3Server
) -> None:
    """The stage pauses with what to do; a right key is enough, and no restart is needed."""
    proxy.fault = lambda _request, _forward: s3_error(403, "InvalidAccessKeyId")
    service.configure(AWS_ENDPOINT_URL=proxy.url)
    service.put(CLIP)
    service.start()
    service.machine.wait_until(UNIT, "StatusText", "upload.* paused: .*InvalidAccessKeyId")
    shown = service.machine.must("systemctl", "status", "--no-pager", "--full", UNIT)
    assert "active (running)" in shown
    assert re.search("upload.* paused", shown)
    assert '"event": "stage_paused"' in service.machine.journal(UNIT, "-p", "err")
    assert SECRET_ACCESS_KEY not in service.machine.journal(UNIT)
    proxy.fault = no_fault
    service.wait_for("upload_published")
    service.machine.wait_until(UNIT, "StatusText", "Waiting for videos")
    assert keys(server) == {f"videos/{CLIP}"}
    assert service.machine.shows(UNIT, "NRestarts") == "0"


def test_s3_that_is_away_for_a_while_is_said_and_loses_nothing(
    service: Service, proxy: FaultProxy, server: S3Server
) -> None:
    proxy.fault = lambda _request, _forward: None
    service.configure(AWS_ENDPOINT_URL=proxy.url)
    service.start()
    service.put(CLIP)
    service.machine.wait_until(UNIT, "StatusText", "upload.* paused")
    assert service.machine.journal(UNIT, "-p", "warning")
    proxy.fault = no_fault
    service.wait_for("upload_published")
    assert keys(server) == {f"videos/{CLIP}"}
    assert service.machine.shows(UNIT, "NRestarts") == "0"


def test_a_disk_without_space_for_the_ledger_is_waited_for(service: Service, server: S3Server) -> None:
    """Before the start, when the unit is not active yet, and while the daemon runs."""
    state, machine = "/var/lib/video-uploader", service.machine
    machine.must("install", "-d", "-m", "700", "-o", "compressor", "-g", "compressor", state)
    machine.must(
        "mount", "-t", "tmpfs", "-o", "size=4m,mode=700,uid=compressor,gid=compressor", "disk", state
    )
    fill = ("sh", "-c", f"cat /dev/zero > {state}/filler")
    machine.run(*fill)
    machine.must("systemctl", "start", "--no-block", UNIT)
    machine.wait_until(UNIT, "StatusText", "Cannot start yet: .*space")
    assert machine.shows(UNIT, "ActiveState") == "activating"
    assert "start_waiting" in machine.journal(UNIT, "-p", "err")
    machine.must("rm", f"{state}/filler")
    machine.wait_until(UNIT, "ActiveState", "^active$")
    machine.run(*fill)
    service.put(CLIP)
    service.machine.wait_until(UNIT, "StatusText", "paused: .*space")
    machine.must("rm", f"{state}/filler")
    service.wait_for("upload_published")
    assert keys(server) == {f"videos/{CLIP}"}
    assert machine.shows(UNIT, "NRestarts") == "0"


def test_after_a_reboot_the_service_is_there_and_continues(service: Service, server: S3Server) -> None:
    """The machine reboots in the middle of an upload, of which nothing is lost or sent under a second key."""
    service.configure(MAX_BANDWIDTH="1MB/s")
    service.start()
    service.machine.must("systemctl", "enable", UNIT)
    service.put(CLIP, size=24 * 1024 * 1024)
    service.wait_for("upload_started")
    service.configure()
    service.machine.reboot()
    service.machine.wait_until(UNIT, "ActiveState", "^active$")
    service.wait_for("upload_published")
    assert keys(server) == {f"videos/{CLIP}"}
    rows = json.loads(service.machine.run(*service.command("list", "--json")).out)
    assert [row["state"] for row in rows] == ["published"], rows
