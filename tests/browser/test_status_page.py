"""What a person sees of the daemon in a browser, and what happens while they look."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from db import JSON, State
from tests.browser.accessibility import complaints
from tests.browser.scene import VIDEOS, add, play
from tests.support.bulk_ledger import INSTANCE, fill_ledger
from tests.support.databases import advance_to, claim, enqueue
from tests.support.harness import MakeHarness
from tests.support.served_site import ServedSite, served_site
from watcher.errors import Failure, FailureKind

AWKWARD = (
    "<img src=x onerror=alert(1)>",
    "\N{RIGHT-TO-LEFT OVERRIDE}4pm.neddih",
    "\N{PILE OF POO}\N{ZERO WIDTH JOINER}\N{WOMAN} family",
    "<script>alert(2)<svg onload=alert(3)>",
    "n" * 246,
    "'\"`{{7*7}}${7*7}",
)
WIDTHS = ((360, 780), (768, 1024), (1280, 900), (3840, 2160))


def open_status(page: Page, site: ServedSite) -> None:
    """Open the page and wait until it follows the daemon."""
    page.goto(f"http://{site.address}/")
    expect(page.locator("#live")).to_have_text("live")


def section(page: Page, heading: str) -> str:
    """The text of the part of the page with a heading."""
    return page.locator("section", has=page.get_by_role("heading", name=heading)).inner_text()


def test_one_look_tells_what_the_daemon_does(page: Page, site: ServedSite) -> None:
    play(site)
    open_status(page, site)
    expect(page.get_by_role("heading", level=1)).to_have_text("2 files need a decision. 8 files on the way.")
    bar = page.get_by_role("progressbar", name="interview_marta_final_720p.mp4")
    assert bar.get_attribute("value") == "37"
    assert re.search(r"37 % of 141.1 MiB · \d.* MiB/s · .* left", section(page, "Moving now"))
    assert re.search(r"pending\s+8\s+\d+ s", section(page, "Queue"))
    assert "has no moov box" in section(page, "What went wrong")
    assert "video-uploader retry" in section(page, "What went wrong")
    assert section(page, "Published last").count("open") == 6
    live = page.get_by_role("link", name="480p is live")
    assert live.count() == 3
    assert re.search(r"test\s+running\s+\d+ s ago", section(page, "Instances"))
    expect(page.get_by_role("img", name="Bytes sent in each minute of the last hour")).to_be_visible()
    assert re.search(r"0\.\d s median, 95 % within", page.locator(".numbers").inner_text())


def test_an_idle_daemon_is_calm(page: Page, site: ServedSite) -> None:
    open_status(page, site)
    expect(page.get_by_role("heading", level=1)).to_have_text("All is well. Waiting for videos.")
    assert "Nothing is being sent" in section(page, "Moving now")
    assert page.get_by_role("heading", name="Paused").count() == 0
    assert page.get_by_role("heading", name="What went wrong").count() == 0


def test_the_page_follows_without_being_loaded_again(page: Page, site: ServedSite) -> None:
    """A bar appears and moves, and what becomes bad is told to a screen reader."""
    open_status(page, site)
    page.evaluate("window.isSame = true")
    add(site, *VIDEOS[0], "720p")
    (upload,) = claim(site.harness.app.ledger)
    progress = site.harness.app.context.transfer_progress
    progress.begin(upload, is_resumed=False)
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("value", "0")
    progress.update(upload, upload.size // 2)
    expect(bar).to_have_attribute("value", "50")
    progress.end(upload)
    site.harness.app.ledger.advance(upload, State.FAILED, error="It is refused.", error_code="refused")
    expect(page.get_by_role("heading", level=1)).to_have_text("1 file needs a decision. Waiting for videos.")
    expect(page.locator("#told")).to_have_text("1 file needs a decision. Waiting for videos.")
    expect(page.get_by_text("It is refused.")).to_be_visible()
    assert page.evaluate("window.isSame")


def test_what_is_paused_says_what_to_do(
    page: Page, site: ServedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_status(page, site)
    failure = Failure(FailureKind.ENVIRONMENT, "NoSuchBucket", "The bucket v is missing; create it.")
    breaker = site.harness.app.breakers["upload"]
    monkeypatch.setattr(type(breaker), "failure", property(lambda one: failure if one is breaker else None))
    expect(page.get_by_role("heading", level=1)).to_contain_text("Paused: upload.")
    expect(page.get_by_text("The bucket v is missing; create it.")).to_be_visible()


def test_what_is_never_uploaded_is_listed_with_the_reason(
    page: Page, site: ServedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, path = site.harness.app, f"{VIDEOS[0][0]}/lost <b>name</b>_720p.mp4"
    app.scanner.ignored_by = {"extension": 3, "playlist": 0}
    reasons: dict[str, JSON] = {path: "catalog row 7 (720p) is ready since yesterday"}
    told: dict[str, JSON] = {"count": 1234, "first": reasons}
    monkeypatch.setattr(site.status, "ready_files_missing", lambda: told)
    open_status(page, site)
    shown = section(page, "Never uploaded")
    assert "1,234 ready catalog rows have no file and no object, among them:" in shown
    assert f"{path}: catalog row 7 (720p) is ready since yesterday" in shown
    assert "Ignored files by reason: 3 (extension); video-uploader status --ignored lists them." in shown
    assert complaints(page) == []


def test_receivers_are_shown_with_what_waits_for_them(
    page: Page, site: ServedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook: JSON = {
        "waiting": 1234,
        "oldest_seconds": 7300.0,
        "failure": "The receiver answers 503.",
        "delivered": 5,
        "failed": 7,
        "dropped": 0,
    }
    told: dict[str, JSON] = {"webhook": webhook, "heartbeat": {"waiting": 0, "failure": None}}
    monkeypatch.setattr(site.status, "notifications", lambda: told)
    open_status(page, site)
    shown = " ".join(section(page, "Notifications").split())
    assert "webhook 1,234 2 h 1 min 5 7 0 fails: The receiver answers 503." in shown
    assert "heartbeat 0 - - - - well" in shown
    assert complaints(page) == []


def test_a_page_without_javascript_has_all_of_it(browser: Browser, site: ServedSite) -> None:
    play(site)
    with ExitStack() as stack:
        context = browser.new_context(java_script_enabled=False)
        stack.callback(context.close)
        page = context.new_page()
        page.goto(f"http://{site.address}/")
        expect(page.get_by_text("without live updates")).to_be_visible()
        for heading in ("Moving now", "The last hour", "Queue", "Published last", "Videos", "Instances"):
            expect(page.get_by_role("heading", name=heading)).to_be_visible()
        page.get_by_label("Search for a video").fill("harbour")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_role("row")).to_have_count(6)


def test_a_hidden_tab_is_not_sent_anything(page: Page, site: ServedSite) -> None:
    """The stream ends when the tab is hidden, and another begins when it is shown again."""
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    open_status(page, site)
    hide = "(value) => { Object.defineProperty(document, 'hidden', {value, configurable: true}); %s }"
    hide %= "document.dispatchEvent(new Event('visibilitychange'));"
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/events")):
        page.evaluate(hide, True)
    expect(page.locator("#live")).to_have_text("paused while hidden")
    assert len([url for url in requests if url.endswith("/events")]) == 1
    page.evaluate(hide, False)
    expect(page.locator("#live")).to_have_text("live")
    assert len([url for url in requests if url.endswith("/events")]) == 2


def test_a_daemon_that_is_gone_is_said_and_its_return_is_seen(page: Page, make_harness: MakeHarness) -> None:
    harness = make_harness(RELEASE_AFTER_SECONDS=86400)
    with served_site(harness) as site:
        open_status(page, site)
    banner = page.get_by_role("alert")
    expect(banner).to_contain_text("The daemon has not answered since")
    expect(page.get_by_role("heading", level=1)).to_have_text("All is well. Waiting for videos.")
    enqueue(harness.app.ledger)
    with served_site(harness, address=site.address):
        expect(page.locator("#live")).to_have_text("live")
        expect(banner).to_be_hidden()
        expect(page.get_by_role("heading", level=1)).to_have_text("All is well. 1 file on the way.")


@pytest.fixture
def awkward(site: ServedSite) -> ServedSite:
    """A ledger of names that someone chose to break a page with."""
    ledger = site.harness.app.ledger
    for name in AWKWARD:
        upload = add(site, VIDEOS[0][0], name, "720p")
        advance_to(ledger, upload, State.FAILED)
    site.report()
    return site


def test_awkward_names_are_text(page: Page, awkward: ServedSite) -> None:
    """No script runs, as `page` would see, nothing changes its direction, nothing is wider than a phone."""
    page.set_viewport_size({"width": 360, "height": 780})
    open_status(page, awkward)
    page.goto(f"http://{awkward.address}/uploads")
    names = page.locator("tbody .file .name").all_inner_texts()
    shown = [name.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "\\u202e") for name in AWKWARD]
    shown = [name.replace("\N{ZERO WIDTH JOINER}", "\\u200d") for name in shown]
    assert names == [f"{name}_720p.mp4" for name in reversed(shown)]
    for place in range(len(AWKWARD)):
        page.goto(f"http://{awkward.address}/uploads")
        page.locator("tbody .file").nth(place).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(names[place])
        assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/uploads", "/uploads/1", "/uploads?q=nothing"])
def test_every_page_can_be_read(
    browser: Browser, site: ServedSite, scheme: Literal["light", "dark"], path: str
) -> None:
    """Contrast, labels, headings and table headers, in the light and in the dark."""
    play(site)
    with ExitStack() as stack:
        context = browser.new_context(color_scheme=scheme)
        stack.callback(context.close)
        page = context.new_page()
        page.goto(f"http://{site.address}{path}")
        assert complaints(page) == []


def test_what_cannot_be_read_is_found(page: Page, site: ServedSite) -> None:
    """The check of the test above sees faint text, and what has no name."""
    # An update would replace the heading.
    page.route("**/events", lambda route: route.abort())
    page.goto(f"http://{site.address}/")
    page.evaluate("document.querySelector('h2').setAttribute('class', 'faint')")
    page.evaluate("document.querySelector('h2').style.color = 'rgb(200, 200, 200)'")
    page.evaluate("document.querySelector('label').remove()")
    found = complaints(page)
    assert [one for one in found if "Moving now" in one]
    assert [one for one in found if one.startswith("no label")]


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_nothing_is_wider_than_the_window(page: Page, site: ServedSite, width: int, height: int) -> None:
    play(site)
    page.set_viewport_size({"width": width, "height": height})
    for path in ("/", "/uploads", "/uploads/1"):
        page.goto(f"http://{site.address}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_page_is_used_with_the_keyboard_alone(page: Page, site: ServedSite) -> None:
    """A link keeps the focus while its part of the page changes."""
    play(site)
    open_status(page, site)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("href", re.compile("/uploads/"))
    address = focused.get_attribute("href")
    progress = site.harness.app.context.transfer_progress
    uploads = site.harness.app.ledger.uploads(ids=[int((address or "").rpartition("/")[2])])
    progress.update(uploads[0], uploads[0].size)
    expect(page.get_by_role("progressbar").first).to_have_attribute("value", "100")
    expect(page.locator(":focus")).to_have_attribute("href", address or "")
    page.keyboard.press("/")
    page.keyboard.type(VIDEOS[1][0])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Uploads with")
    expect(page.get_by_role("row")).to_have_count(6)


def test_ten_thousand_uploads_are_pages(page: Page, make_harness: MakeHarness) -> None:
    harness = make_harness(INSTANCE_ID=INSTANCE)
    fill_ledger(harness.app.context.database, 10_000)
    with served_site(harness) as site:
        open_status(page, site)
        assert page.evaluate("document.querySelectorAll('*').length") < 1_500
        page.goto(f"http://{site.address}/uploads")
        expect(page.locator("tbody tr")).to_have_count(50)
        page.get_by_role("link", name="Older uploads").click()
        expect(page.locator("tbody tr").first).to_contain_text("9950")
