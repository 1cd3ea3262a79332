"""The first ten minutes of README.md, as they are written there, in a machine that has just booted."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.media import Media
from tests.support.ports import free_address
from tests.support.s3_server import S3Server
from tests.support.source_tree import ROOT
from tests.systemd.conftest import UNIT
from tests.systemd.machine import Machine

pytestmark = pytest.mark.timeout(1200)

OTHER_SERVER = "# For another server than AWS: AWS_ENDPOINT_URL=https://s3.example.com"


def steps() -> list[str]:
    """The blocks of the section, in order. The first one builds the package, which the machine has."""
    text = Path(ROOT, "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Ten minutes to the first published video\n")[2].partition("\n## ")[0]
    build, *others = re.findall(r"^```sh\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    assert "make deb" in build
    return others


def test_the_readme_leads_to_a_published_video_and_the_status_page(
    machine: Machine, server: S3Server, media: Media
) -> None:
    """Only the S3 server is another one, and the port of the page, which this machine shares."""
    page = free_address()
    shutil.copy(media.faststart, f"{machine.shared}/my_video.mp4")
    script = "\n".join(steps())
    assert OTHER_SERVER in script
    for step in steps():
        own = step.replace(OTHER_SERVER, f"AWS_ENDPOINT_URL={server.url}\nHTTP_ADDRESS={page}")
        machine.must("sh", "-euc", f"cd {machine.shared}\n{own}")
    machine.wait_for(lambda: '"event": "upload_published"' in machine.journal(UNIT), "the publication")
    # A file of root is unreadable until `install` gives it away; one found then is an upload, too.
    (upload,) = json.loads(machine.must("video-uploader", "list", "--state", "published", "--json"))
    with urlopen(upload["url"], timeout=10) as answer:
        assert answer.read() == Path(media.faststart).read_bytes()
    with urlopen(f"http://{page}/", timeout=10) as answer:
        assert upload["video_id"] in answer.read().decode()
