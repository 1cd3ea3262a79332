"""Debian's Chromium, driven by playwright, which brings none of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

REQUIRE_VARIABLE = "BROWSER_REQUIRE"
"""If it is set, a missing Chromium is an error."""

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def why_missing() -> str | None:
    """Why there is no browser, as a sentence; None if there is one."""
    if shutil.which("chromium") is not None:
        return None
    return "Chromium is not installed; on Debian `apt-get install chromium` does it."


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=[*FLAGS]
        )
        try:
            yield browser
        finally:
            browser.close()


def is_required() -> bool:
    """Whether the tests must not be skipped."""
    return bool(os.environ.get(REQUIRE_VARIABLE))
