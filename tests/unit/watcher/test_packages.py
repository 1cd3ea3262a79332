"""Which files belong to packages, by the playlists of their directories, and how little that costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.support.media import encode
from watcher.filesystem import Packages, Tree, packages
from watcher.filesystem.openat import RootUnavailableError

VIDEO = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
SEGMENT = f"{VIDEO}/seg0.ts"


class Clock:
    """Seconds that pass when a test says so, and a little at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self) -> None:
        self.now += 1.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def found(tree: Tree, clock: Clock) -> Packages:
    return Packages(tree, clock=clock)


@pytest.fixture
def write(place: str, clock: Clock) -> Callable[..., None]:
    def write_text(path: str, text: str = "#EXTM3U\nseg0.ts\n") -> None:
        os.makedirs(os.path.dirname(f"{place}/{path}"), exist_ok=True)
        with open(f"{place}/{path}", "w") as file:
            file.write(text)
        clock.pass_by()

    return write_text


@pytest.mark.parametrize(
    ("options", "playlist", "extension"),
    [
        (("-c:v", "mpeg2video", "-r", "25", "-f", "hls", "-hls_time", "0.2"), "index.m3u8", ".ts"),
        (
            ("-c:v", "libx264", "-g", "2", "-f", "hls", "-hls_segment_type", "fmp4", "-hls_time", "0.2"),
            "Index.M3U8",
            ".m4s",
        ),
        (("-c:v", "libx264", "-g", "2", "-f", "dash", "-seg_duration", "0.2"), "manifest.mpd", ".m4s"),
        (
            ("-c:v", "libvpx", "-g", "2", "-f", "dash", "-seg_duration", "0.2", "-dash_segment_type", "webm"),
            "manifest.mpd",
            ".webm",
        ),
    ],
    ids=["hls", "hls of fragments", "dash", "dash of webm"],
)
def test_every_file_of_a_real_package_is_a_part_of_it(
    place: str, found: Packages, options: tuple[str, ...], playlist: str, extension: str
) -> None:
    os.makedirs(f"{place}/{VIDEO}")
    encode(f"{place}/{VIDEO}/{playlist}", *options)
    parts = [name for name in os.listdir(f"{place}/{VIDEO}") if name != playlist]
    assert [os.path.splitext(name)[1] for name in parts].count(extension) > 1
    for name in parts:
        assert playlist in (found.reason(f"{VIDEO}/{name}") or ""), name
    assert found.reason(f"{VIDEO}/movie.mp4") is None
    assert found.reason(f"{VIDEO}/movie_720p.mp4") is None


def test_the_reason_names_the_playlist(found: Packages, write: Callable[..., None]) -> None:
    write(f"{VIDEO}/index.m3u8")
    assert found.reason(SEGMENT) == (
        f"the playlist {VIDEO}/index.m3u8 names it: it is a part of a package for streaming, and "
        "packages are not uploaded"
    )


@pytest.mark.parametrize("playlist", ["master.m3u8", f"{VIDEO}/master.m3u8", f"{VIDEO}/720p/index.m3u8"])
def test_a_playlist_in_any_directory_above_may_name_it(
    found: Packages, write: Callable[..., None], playlist: str
) -> None:
    path = f"{VIDEO}/720p/seg0.mp4"
    write(path, "x")
    assert found.reason(path) is None
    write(playlist, os.path.relpath(path, os.path.dirname(playlist) or "."))
    assert playlist in (found.reason(path) or "")
    assert found.reason(f"{VIDEO}/720p/seg1.mp4") is None


def test_a_playlist_that_appears_changes_or_goes_is_noticed(
    place: str, found: Packages, write: Callable[..., None], clock: Clock
) -> None:
    write(SEGMENT, "x")
    assert found.reason(SEGMENT) is None
    write(f"{VIDEO}/index.m3u8", "#EXTM3U\n")
    assert found.reason(SEGMENT) is None
    write(f"{VIDEO}/index.m3u8")
    assert found.reason(SEGMENT)
    os.remove(f"{place}/{VIDEO}/index.m3u8")
    clock.pass_by()
    assert found.reason(SEGMENT) is None


def test_nothing_is_listed_or_read_twice_unless_it_changed(
    place: str,
    found: Packages,
    write: Callable[..., None],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(f"{VIDEO}/index.m3u8")
    for path in (f"{VIDEO}/index.m3u8", VIDEO, ""):
        os.utime(f"{place}/{path}", (1, 1))
    # Their ctime is that of this moment: a change within the same tick of the clock could not be told.
    monkeypatch.setattr(packages, "_CLOCK_TICK_NS", -(10**12))
    listed: list[object] = []
    scandir = os.scandir

    def count(directory: int) -> object:
        listed.append(directory)
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", count)
    for _ in range(20):
        assert found.reason(SEGMENT)
        assert found.reason(f"{VIDEO}/movie.mp4") is None
        clock.pass_by()
    assert len(listed) == 2


def test_a_change_within_one_tick_of_the_clock_is_noticed(
    place: str, found: Packages, write: Callable[..., None], clock: Clock
) -> None:
    write(SEGMENT, "x")
    times = os.stat(f"{place}/{VIDEO}")
    assert found.reason(SEGMENT) is None
    write(f"{VIDEO}/index.m3u8")
    os.utime(f"{place}/{VIDEO}", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert found.reason(SEGMENT)


def test_a_listing_takes_at_most_a_share_of_the_time(
    tree: Tree, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large directory, in which a file appears every second."""
    monkeypatch.setattr(packages, "MANY_ENTRIES", 10)
    now = 0.0
    scandir = os.scandir

    def slow(directory: int) -> object:
        nonlocal now
        now += 3.0
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", slow)
    found = Packages(tree, clock=lambda: now)
    listing = 0.0
    for second in range(200):
        write(f"file{second}.mp4", "x")
        before = now
        found.reason(f"file{second}.mp4")
        listing += now - before
        now += 1.0
    assert listing <= 10 * 3 + 12


def test_what_cannot_be_read_is_taken_to_name_the_files_beside_it_only(
    place: str,
    found: Packages,
    write: Callable[..., None],
    unprivileged: Callable[[], AbstractContextManager[None]],
) -> None:
    write(f"{VIDEO}/index.m3u8", "#EXTM3U\n")
    os.chmod(f"{place}/{VIDEO}/index.m3u8", 0)
    with unprivileged():
        assert "cannot be read: The system says: Permission denied" in (found.reason(SEGMENT) or "")
        assert found.reason(f"{VIDEO}/720p/movie.mp4") is None


def test_a_link_is_not_followed_and_a_directory_is_no_playlist(
    place: str, found: Packages, write: Callable[..., None], clock: Clock
) -> None:
    write(SEGMENT, "x")
    os.mkdir(f"{place}/{VIDEO}/sub.m3u8")
    os.mkfifo(f"{place}/{VIDEO}/pipe.mpd")
    clock.pass_by()
    assert found.reason(SEGMENT) is None
    os.symlink("/etc/passwd", f"{place}/{VIDEO}/index.m3u8")
    clock.pass_by()
    assert "cannot be read" in (found.reason(SEGMENT) or "")


def test_memory_is_bounded(
    found: Packages, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MAX_NAMES", 100)
    monkeypatch.setattr(packages, "MAX_DIRECTORIES", 5)
    for number in range(20):
        write(f"v{number}/index.m3u8", "".join(f"x{one}.mp4\n" for one in range(60)))
        assert found.reason(f"v{number}/x1.mp4")
        assert len(found._listings) <= 5
        assert sum(listing.weight for listing in found._listings.values()) == found._weight <= 120
    assert found.reason("v0/x1.mp4")


def test_without_the_watched_directory_nothing_is_known(
    tree: Tree, found: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> int:
        raise RootUnavailableError(tree.root, "It is gone.")

    monkeypatch.setattr(tree, "open_root", away)
    assert found.reason("seg0.ts") is None


@pytest.mark.parametrize("playlist", ["hls/index.m3u8", "hls/720p/index.m3u8"])
def test_a_playlist_names_files_above_it_within_its_video(
    found: Packages, write: Callable[..., None], playlist: str
) -> None:
    up = "../" * playlist.count("/")
    write(f"{VIDEO}/{playlist}", f"#EXTM3U\n{up}film_720p.mp4\n{up}segments/a.mp4\nown.mp4\n")
    for name in ("film_720p.mp4", "segments/a.mp4", f"{os.path.dirname(playlist)}/own.mp4"):
        assert f"{VIDEO}/{playlist} names it" in (found.reason(f"{VIDEO}/{name}") or ""), name
    for name in ("own.mp4", "film_480p.mp4", "segments/film_720p.mp4"):
        assert found.reason(f"{VIDEO}/{name}") is None, name


def test_what_a_playlist_names_outside_its_video_is_said_and_not_followed(
    found: Packages, write: Callable[..., None]
) -> None:
    other = "5f0c8c1e-7d0b-4b53-9d2e-1f6f0f7b2c22"
    write(f"{VIDEO}/hls/index.m3u8", f"#EXTM3U\n../../{other}/film_720p.mp4\n../film_720p.mp4\n")
    write(f"{VIDEO}/flat.m3u8", f"#EXTM3U\n../{other}/film_720p.mp4\n../loose.mp4\nseg.mp4\n")
    assert found.reason(f"{other}/film_720p.mp4") is None
    assert found.reason("loose.mp4") is None
    reason = found.reason(f"{VIDEO}/film_720p.mp4") or ""
    assert f"names outside {VIDEO}, such as ../../{other}/film_720p.mp4" in reason
    assert f"names outside {VIDEO}, such as ../{other}/film_720p.mp4" in (
        found.reason(f"{VIDEO}/seg.mp4") or ""
    )


def test_directories_are_looked_at_within_bounds_and_links_are_not_followed(
    found: Packages, write: Callable[..., None], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MAX_BELOW", 3)
    for number in range(9):
        write(f"{VIDEO}/d{number}/index.m3u8", "#EXTM3U\n../film_720p.mp4\n" if number > 3 else "#EXTM3U\n")
    os.symlink(f"{place}/{VIDEO}/d8", f"{place}/{VIDEO}/a_link")
    assert found.reason(f"{VIDEO}/film_720p.mp4") is None
    write(f"{VIDEO}/d1/index.m3u8", "#EXTM3U\n../film_720p.mp4\n")
    assert f"{VIDEO}/d1/index.m3u8 names it" in (found.reason(f"{VIDEO}/film_720p.mp4") or "")


def test_a_look_at_a_file_opens_each_directory_above_it_once(
    found: Packages, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is asked about several times, and each system call is one more turn for other threads."""
    write(f"{VIDEO}/clip_720p.mp4", "video")
    long_ago = (1.0, 1.0)
    os.utime(found._tree.root, long_ago)
    os.utime(f"{found._tree.root}/{VIDEO}", long_ago)
    monkeypatch.setattr(packages, "_CLOCK_TICK_NS", -(10**12))
    assert found.reason(f"{VIDEO}/clip_720p.mp4") is None
    opened: list[object] = []
    really_open = os.open

    def open_and_note(path: str, flags: int, **how: int) -> int:
        opened.append(path)
        return really_open(path, flags, **how)

    monkeypatch.setattr(os, "open", open_and_note)
    assert found.reason(f"{VIDEO}/clip_720p.mp4") is None
    assert opened == [found._tree.root, VIDEO]
