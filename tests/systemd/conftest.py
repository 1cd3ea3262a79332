"""Machines with a real systemd, skipped where none can be booted and SYSTEMD_REQUIRE=1 is not set."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.support.harness import BUCKET
from tests.support.media import Media
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server
from tests.support.video_files import padded
from tests.systemd.compressor import COMPLETED, Compressor
from tests.systemd.machine import Machine, SystemdUnavailableError, booted

UNIT = "video-uploader.service"
ENV_FILE = "/etc/video-uploader.env"


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None) -> None:
    """The AWS settings of this machine play no part."""


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine that has just booted."""
    with tempfile.TemporaryDirectory(prefix="systemd-") as shared:
        os.chmod(shared, 0o755)
        try:
            with booted(shared) as running:
                yield running
        except SystemdUnavailableError as exc:
            exc.skip()


class Service:
    """The service as `systemd install` installs it, beside a compressor's user."""

    def __init__(self, machine: Machine, server: S3Server, media: Media) -> None:
        self.machine = machine
        self._media = media
        self.settings = {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_REGION": REGION,
            "AWS_S3_BUCKET": BUCKET,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "METRICS_ADDRESS": "",
            "DISK_PRESSURE_PERCENT": "100",
            "SETTLE_SECONDS": "1",
        }
        machine.must("useradd", "--system", "--user-group", "compressor")
        machine.must("install", "-d", "-o", "compressor", "-g", "compressor", COMPLETED)
        machine.must(*self.command("systemd", "install", "--user", "compressor", "--directory", COMPLETED))
        self.configure()

    def configure(self, **changes: str) -> None:
        """Write the settings file, some of them changed."""
        text = "".join(f"{name}={value}\n" for name, value in {**self.settings, **changes}.items())
        self.machine.write(ENV_FILE, text, mode=0o640, owner="root:compressor")

    def drop_in(self, text: str) -> None:
        """Add lines to the unit's [Service] section, as `systemctl edit` does."""
        self.machine.write(f"/etc/systemd/system/{UNIT}.d/90-test.conf", f"[Service]\n{text}\n")
        self.machine.must("systemctl", "daemon-reload")

    def start(self) -> None:
        """Start it; it is ready afterwards."""
        self.machine.must("systemctl", "daemon-reload")
        self.machine.must("systemctl", "start", UNIT)

    def put(self, path: str, size: int = 0, *, directory: str = COMPLETED) -> None:
        """Write a video of at least so many bytes into a directory, as the compressor's user."""
        source = os.path.join(self.machine.shared, "video.mp4")
        with open(self._media.faststart, "rb") as video, open(source, "wb") as file:
            content = video.read()
            file.write(padded(content, size) if size else content)
        target = f"{directory}/{path}"
        write = f"umask 027; mkdir -p {os.path.dirname(target)} && cp {source} {target}"
        self.machine.must("runuser", "-u", "compressor", "--", "sh", "-c", write)

    def wait_for(self, event: str, count: int = 1) -> None:
        """Wait until the journal has an event so many times."""
        self.machine.wait_for(lambda: self.machine.journal(UNIT).count(f'"event": "{event}"') >= count, event)

    def reload(self, **changes: str) -> None:
        """Write the settings file, some of them changed, and have the daemon read it."""
        self.configure(**changes)
        self.machine.must("systemctl", "reload", UNIT)

    def command(self, *arguments: str) -> list[str]:
        """The program as an operator calls it."""
        return ["video-uploader", *arguments]


@pytest.fixture
def service(machine: Machine, server: S3Server, media: Media) -> Service:
    """The service, installed and not started."""
    return Service(machine, server, media)


@pytest.fixture
def compressor(service: Service) -> Compressor:
    """The compressor and its database, beside the service, which uses both."""
    made = Compressor(service.machine)
    service.settings["DATABASE_URL"] = made.daemon_url
    service.configure()
    return made
