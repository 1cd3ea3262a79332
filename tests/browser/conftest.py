"""Fixtures of the tests in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, expect

from tests.browser.chromium import chromium, is_required, why_missing
from tests.support.harness import MakeHarness
from tests.support.served_site import ServedSite, served_site

PATIENCE_MS = 20_000

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None, sigio_ignored: None) -> None:
    """The AWS settings of this machine play no part, and a broken lease kills nothing."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests; they are skipped where there is none."""
    if reason := why_missing():
        if is_required():
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium() as running:
        yield running


@pytest.fixture
def site(make_harness: MakeHarness) -> Iterator[ServedSite]:
    """The page of a daemon that has nothing to show yet."""
    with served_site(make_harness(RELEASE_AFTER_SECONDS=86400)) as served:
        yield served


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window in which no script may fail, nothing may be forbidden by the policy, and nothing may ask."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    complaints: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        complaints.append(dialog.message)
        dialog.dismiss()

    def note(message: ConsoleMessage) -> None:
        if "Content Security" in message.text:
            complaints.append(message.text)

    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", dismiss)
    opened.on("console", note)
    yield opened
    context.close()
    assert complaints == []
