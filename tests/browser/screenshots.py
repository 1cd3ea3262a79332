"""Makes the screenshots in `docs/` again: ``python -m tests.browser.screenshots``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from playwright.sync_api import expect

from tests.browser.chromium import chromium, why_missing
from tests.browser.scene import play
from tests.support.harness import BUCKET, open_harness, settings_for
from tests.support.s3_server import S3Server
from tests.support.served_site import served_site
from watcher.filesystem import Tree

DOCS = Path(__file__).parents[2] / "docs"
SHOTS = (
    ("status-light", 1280, 1130, "light"),
    ("status-dark", 1280, 1130, "dark"),
    ("status-phone", 390, 844, "light"),
)


def main() -> int:
    """Make them all; returns the exit code."""
    if reason := why_missing():
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory, S3Server() as server, chromium() as browser:
        server.create_bucket(BUCKET)
        settings = settings_for(directory, server.url, RELEASE_AFTER_SECONDS=86400, INSTANCE_ID="media-01")
        with (
            open_harness(settings, server) as harness,
            served_site(harness) as site,
            patch.object(Tree, "root", "/srv/videos/completed"),
        ):
            play(site)
            for name, width, height, scheme in SHOTS:
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if scheme == "dark" else "light",
                )
                page = context.new_page()
                page.goto(f"http://{site.address}/")
                expect(page.locator("#live")).to_have_text("live")
                page.screenshot(path=DOCS / f"{name}.png")
                context.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
