"""The Containerfile: its rules, and its steps, run in a root file system of the Debian that it is made of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from tests.support.harness import BUCKET
from tests.support.media import Media
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server
from tests.support.source_tree import ROOT
from tests.support.video_files import PATH
from tests.systemd.machine import BASE, PACKAGE, SystemdUnavailableError, ensure_base

pytestmark = pytest.mark.timeout(1200)

WAIT_SECONDS = 60.0


def instructions() -> list[tuple[str, str]]:
    """The instructions of the file, with their arguments, in order."""
    with open(os.path.join(ROOT, "Containerfile"), encoding="utf-8") as file:
        text = re.sub(r"(?m)^#.*\n", "", file.read()).replace("\\\n", "")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, " ".join(arguments.split())) for name, arguments in lines]


def test_the_file_keeps_to_the_rules() -> None:
    """No root, no newest of anything, no other place, no leftovers, and signals reach the daemon."""
    given = instructions()
    last = dict(given)
    for image in (arguments.split()[0] for name, arguments in given if name == "FROM"):
        assert re.fullmatch(r"debian:\w+-slim", image)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last["USER"])
    assert [name for name, _ in given[-3:]] == ["STOPSIGNAL", "ENTRYPOINT", "CMD"]
    assert json.loads(last["ENTRYPOINT"]) == ["video-uploader"]
    assert json.loads(last["CMD"]) == ["run"]
    assert {"HEALTHCHECK", "VOLUME", "WORKDIR"} <= last.keys()
    assert "ADD" not in last
    text = "\n".join(f"{name} {arguments}" for name, arguments in given)
    assert "://" not in text
    assert not re.search(r"SECRET|PASSWORD|TOKEN", text)
    for step in (arguments for name, arguments in given if name == "RUN" and "apt-get" in arguments):
        assert "--no-install-recommends" in step
        assert step.endswith("rm -rf /var/lib/apt/lists/*")


@dataclass
class Stage:
    """A stage of the image, made on a layer above the root file system of the tests."""

    root: str
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    user: str = "0:0"

    def command(self, *command: str) -> list[str]:
        """A command in it, as its user."""
        return [shutil.which("chroot") or "chroot", f"--userspec={self.user}", self.root, *command]

    def run(self, step: str, more: Mapping[str, str]) -> None:
        """Run a step; it must succeed."""
        ran = subprocess.run(
            self.command("/bin/sh", "-c", step),
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ran.returncode == 0, (step, ran.stderr[-2000:])


@contextmanager
def layer(place: str) -> Iterator[Stage]:
    """An empty layer above the root file system, with the network of this machine."""
    parts = {name: os.path.join(place, name) for name in ("upper", "work", "merged")}
    for path in parts.values():
        os.makedirs(path)
    options = f"lowerdir={BASE},upperdir={parts['upper']},workdir={parts['work']}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, parts["merged"]], check=True)
    try:
        root = parts["merged"]
        subprocess.run(["chroot", root, "dpkg", "--purge", PACKAGE], check=True, capture_output=True)
        shutil.copy("/etc/resolv.conf", f"{root}/etc/resolv.conf")
        subprocess.run(["mount", "--bind", "/proc", f"{root}/proc"], check=True)
        try:
            yield Stage(root)
        finally:
            subprocess.run(["umount", "--lazy", f"{root}/proc"], check=True)
    finally:
        subprocess.run(["umount", "--lazy", parts["merged"]], check=True)


def copy(arguments: str, stages: Mapping[str, Stage], stage: Stage) -> None:
    """Do what COPY does with a directory."""
    *options, source, target = arguments.split()
    origin = ROOT if not options else stages[options[0].removeprefix("--from=")].root + source
    ignored = (
        shutil.ignore_patterns(".*", "*.egg-info", "build", "tests", "benchmarks") if not options else None
    )
    shutil.copytree(origin, stage.root + target, symlinks=True, ignore=ignored, dirs_exist_ok=True)


@pytest.fixture
def image() -> Iterator[Stage]:
    """The last stage; wheels come from those that the Debian package was made of."""
    try:
        ensure_base()
    except SystemdUnavailableError as exc:
        exc.skip()
    stages: dict[str, Stage] = {}
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="image-"))
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        for name, arguments in instructions():
            if name == "FROM":
                stage = stack.enter_context(layer(f"{place}/{len(stages)}"))
                stages[arguments.rpartition(" ")[2]] = stage
            elif name == "RUN":
                stage.run(arguments, offline)
            elif name == "COPY":
                copy(arguments, stages, stage)
            elif name == "ENV":
                stage.environment |= dict(pair.split("=", 1) for pair in arguments.split())
            elif name == "USER":
                stage.user = arguments
        yield stage


def test_the_steps_make_an_image_that_uploads_and_tells_its_health(
    image: Stage, server: S3Server, media: Media
) -> None:
    """As the user of the image, in its directories; it is healthy while the daemon works, and not before."""
    check = dict(instructions())["HEALTHCHECK"].partition("CMD ")[2]
    health = image.command("/bin/sh", "-c", check)
    assert subprocess.run(health, check=False, timeout=30).returncode != 0
    target = f"{image.root}/videos/{PATH}"
    os.makedirs(os.path.dirname(target))
    shutil.copy(media.faststart, target)
    for path in (os.path.dirname(target), target):
        os.chown(path, *map(int, image.user.split(":")))
    settings = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": REGION,
        "AWS_S3_BUCKET": BUCKET,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "METRICS_ADDRESS": "",
        "SETTLE_SECONDS": "1",
        "RELEASE_AFTER_SECONDS": "0",
        "DISK_PRESSURE_PERCENT": "100",
    }
    words = dict(instructions())
    daemon = image.command("/usr/bin/env", *json.loads(words["ENTRYPOINT"]), *json.loads(words["CMD"]))
    with subprocess.Popen(daemon, env={**image.environment, **settings}) as process:
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while os.path.exists(target):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert subprocess.run(health, check=False, timeout=30).returncode == 0
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
    (found,) = server.client().list_objects_v2(Bucket=BUCKET)["Contents"]
    assert found["Key"] == f"videos/{PATH}"
