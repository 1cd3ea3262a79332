"""The wheel, the sdist and the Debian package: complete, and each works on a bare Python."""

from __future__ import annotations

import json
import os
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.release.conftest import Release, told
from tests.support import manual
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.media import Media
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server
from tests.support.source_tree import ROOT

pytestmark = pytest.mark.timeout(600)

CLIP = f"{VIDEO_ID}/clip_144p.mp4"


def test_wheel_and_sdist_bring_along_what_is_installed_beside_the_program(release: Release) -> None:
    """`systemd/` is in both as it is in the tree, and the wheel is made of the sdist."""
    with tarfile.open(release.sdist) as packed:
        in_sdist = {name.partition("/")[2] for name in packed.getnames()}
    with zipfile.ZipFile(release.wheel) as zipped:
        in_wheel = set(zipped.namelist())
    source = Path(ROOT, "systemd")
    expected = {
        f"watcher/share/systemd/{path.relative_to(source)}" for path in source.rglob("*") if path.is_file()
    }
    completions = os.listdir(os.path.join(ROOT, "watcher", "share", "completions"))
    expected |= {manual.PATH, *(f"watcher/share/completions/{name}" for name in completions)}
    assert expected - in_sdist == set()
    assert expected - in_wheel == set()


def test_the_debian_package_has_the_documents_that_its_readme_links_to(
    release: Release, tmp_path: Path
) -> None:
    told("dpkg-deb", "-x", release.deb(), tmp_path)
    readme = tmp_path / "usr/share/doc/video-uploader/README.md"
    links = re.findall(r"\]\(([^):#\s]+)[^):\s]*\)", readme.read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if not (readme.parent / link).exists()] == []


@pytest.mark.parametrize("kind", ["wheel", "sdist", "deb"])
def test_each_archive_uploads_a_video_on_a_bare_python(
    kind: str, release: Release, server: S3Server, media: Media, tmp_path: Path
) -> None:
    """It tells its version, shows its settings, and `run --once` puts a real video into S3."""
    program = release.installed(kind)
    video = tmp_path / "completed" / CLIP
    video.parent.mkdir(parents=True)
    video.write_bytes(Path(media.faststart).read_bytes())
    settings = {
        "COMPLETED_DIR": str(tmp_path / "completed"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": REGION,
        "AWS_S3_BUCKET": BUCKET,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "DISK_PRESSURE_PERCENT": "100",
        "SETTLE_SECONDS": "1",
    }
    bare = ["env", "-i", *(f"{name}={value}" for name, value in settings.items()), *program]
    version = tomllib.loads(Path(ROOT, "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert told(*bare, "--version", cwd=tmp_path).strip() == f"video-uploader {version}"
    shown = json.loads(told(*bare, "config", "--json", cwd=tmp_path))
    assert shown["AWS_S3_BUCKET"] == {"value": BUCKET, "source": "environment"}
    told(*bare, "run", "--once", cwd=tmp_path)
    stored = server.client().get_object(Bucket=BUCKET, Key=f"videos/{CLIP}")["Body"].read()
    assert stored == video.read_bytes()
