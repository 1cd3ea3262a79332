"""The files that playlists name: of HLS and DASH, as programs really write them, and of hostile ones."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.containers.playlists import MAX_NAMES, is_playlist, names_in

HEAD = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n"
NFC, NFD = "\u00e9t\u00e9", "e\u0301te\u0301"


def named(text: str | bytes, path: str, name: str = "index.m3u8") -> bool:
    content = text if isinstance(text, bytes) else text.encode()
    return names_in(content, name).include(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.m3u8", True),
        ("A.M3U8", True),
        ("a.MPD", True),
        ("a.m3u", True),
        ("a.m3u8.tmp", False),
        ("m3u8", False),
    ],
)
def test_a_playlist_is_known_by_its_extension_in_any_case(name: str, expected: bool) -> None:
    assert is_playlist(name) == expected


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("seg.mp4", "seg.mp4"),
        ("  seg.mp4\t", "seg.mp4"),
        ("./seg.mp4", "seg.mp4"),
        ("720p/seg.mp4", "720p/seg.mp4"),
        ("x/../seg.mp4", "seg.mp4"),
        ("my%20seg.mp4", "my seg.mp4"),
        ("my seg.mp4", "my seg.mp4"),
        ("100%.mp4", "100%.mp4"),
        ("100%25.mp4", "100%.mp4"),
        ("a%20b.mp4", "a%20b.mp4"),
        ("seg.mp4?token=1", "seg.mp4"),
        ("seg.mp4#t=1", "seg.mp4"),
        ("what?.mp4", "what?.mp4"),
        ("a#b.mp4", "a#b.mp4"),
        ("https://cdn.example/v/720p/seg.mp4", "seg.mp4"),
        ("https://cdn.example/v/720p/seg.mp4?x=1", "720p/seg.mp4"),
        ("//cdn.example/seg.mp4", "seg.mp4"),
        ("/v/720p/my%20seg.mp4", "720p/my seg.mp4"),
        ("file:///srv/completed/seg.mp4", "seg.mp4"),
        ("720p\\seg.mp4", "720p/seg.mp4"),
        ("720p\\seg.mp4", "720p\\seg.mp4"),
        ("a:b.mp4", "a:b.mp4"),
        (NFC + ".mp4", NFD + ".mp4"),
        (NFD + ".mp4", NFC + ".mp4"),
        ("%C3%A9t%C3%A9.mp4", NFD + ".mp4"),
        ("e%CC%81te%CC%81%20100%25.mp4", NFC + " 100%.mp4"),
        ('#EXT-X-MAP:URI="init.mp4",BYTERANGE="1@0"', "init.mp4"),
        ('#EXT-X-MEDIA:TYPE=AUDIO,URI="a/b.mp4"', "a/b.mp4"),
        ('#EXT-X-PART:DURATION=1,URI="part.mp4"', "part.mp4"),
        ("seg-{$id}-x.mp4", "seg-9-x.mp4"),
    ],
)
def test_a_name_is_found_however_it_is_written(line: str, path: str) -> None:
    for end in ("\n", "\r\n", "\r"):
        assert named((HEAD + "#EXTINF:4,\n" + line + "\n").replace("\n", end), path)
        assert not named((HEAD + line).replace("\n", end), "other_720p.mp4")


@pytest.mark.parametrize(
    "line", ["../seg.mp4", "#EXTINF:4,seg.mp4", "sub/seg.mp4", "seg.mp4.bak", "xseg.mp4"]
)
def test_another_name_is_not(line: str) -> None:
    assert not named(HEAD + line, "seg.mp4")


@pytest.mark.parametrize(
    ("text", "name", "path", "expected"),
    [
        ("../seg.mp4", "index.m3u8", "../seg.mp4", True),
        ("..%2Fseg.mp4?x=1", "index.m3u8", "../seg.mp4", True),
        ("a/../../b/seg.mp4", "index.m3u8", "../b/seg.mp4", True),
        ("../seg_00041.ts", "index.m3u8", "../seg_00042.ts", True),
        ("../{$id}/seg.mp4", "index.m3u8", "../720p/seg.mp4", True),
        ("seg.mp4", "index.m3u8", "../seg.mp4", False),
        ("{$id}/seg.mp4", "index.m3u8", "../720p/seg.mp4", False),
        ("../seg.mp4", "index.m3u8", "../../seg.mp4", False),
        ("<BaseURL>../</BaseURL><BaseURL>film.mp4</BaseURL>", "a.mpd", "../film.mp4", True),
        ("<BaseURL>../a/</BaseURL><BaseURL>film.mp4</BaseURL>", "a.mpd", "../film.mp4", False),
        ("<BaseURL>../audio.mp4</BaseURL><BaseURL>film.mp4</BaseURL>", "a.mpd", "../film.mp4", False),
    ],
)
def test_a_name_above_the_playlist_is_the_file_there(text: str, name: str, path: str, expected: bool) -> None:
    assert named((HEAD if name.endswith("m3u8") else "") + text, path, name) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_hides_no_name(encoding: str) -> None:
    assert named(f"{NFC}.mp4\n{HEAD}".encode(encoding), f"{NFC}.mp4")


def test_a_series_of_segments_is_named_as_a_whole() -> None:
    """A live playlist names the last ones, and the next one is complete before it is named."""
    playlist = HEAD + "720p/live_00041.ts\n720p/live_00042.ts\nclip1.mp4\nintro.ts\n"
    for name in ("720p/live_00001.ts", "720p/live_00043.ts", "720p/live_7.ts", "intro.ts"):
        assert named(playlist, name)
    for name in ("live_00043.ts", "720p/live_x.ts", "clip2.mp4", "outro.ts", "720p/other_00041.ts"):
        assert not named(playlist, name)


def test_a_list_of_whole_files_for_a_player_is_no_package() -> None:
    text = "#EXTM3U\n#EXTINF:4,Holiday\nholiday.mp4\n"
    assert not named(text, "holiday.mp4", "list.m3u")
    assert named(HEAD + "holiday.mp4\n", "holiday.mp4", "index.m3u")


def mpd(body: str) -> str:
    return f'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">{body}</MPD>'


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ("<BaseURL>video_720p.mp4</BaseURL>", "video_720p.mp4"),
        ("<dash:BaseURL serviceLocation='a'>\n video_720p.mp4\n</dash:BaseURL>", "video_720p.mp4"),
        ("<BaseURL>a &amp; b.mp4</BaseURL>", "a & b.mp4"),
        ("<BaseURL>https://cdn.example/x/720p/v.mp4</BaseURL>", "720p/v.mp4"),
        ('<BaseURL>720p/</BaseURL><SegmentURL media="seg1.mp4"/>', "720p/seg1.mp4"),
        ("<SegmentList><Initialization sourceURL='init.mp4'/></SegmentList>", "init.mp4"),
        ('<SegmentTemplate media="c-$RepresentationID$-$Number%05d$.mp4"/>', "c-0-00042.mp4"),
        ('<SegmentTemplate initialization="$RepresentationID$/init.mp4"/>', "720p/init.mp4"),
        ('<SegmentTemplate media="$RepresentationID$/$Time$.mp4"/>', "video/720p/1048576.mp4"),
        ('<SegmentTemplate media="a$$b-$Number$.mp4"/>', "a$b-1.mp4"),
        ('<SegmentTemplate media="a$$b.mp4"/>', "a$b.mp4"),
        ('<SegmentTemplate media="é%20$Number$.mp4"/>', "e\u0301 1.mp4"),
        (
            '<SegmentTemplate media="$Number$$Time$$Bandwidth$$SubNumber$$RepresentationID$.mp4"/>',
            "1234a.mp4",
        ),
    ],
)
def test_a_manifest_names_files_and_patterns_of_files(body: str, path: str) -> None:
    assert named(mpd(body), path, "manifest.mpd")
    assert not named(mpd(body), "other_720p.mkv", "manifest.mpd")


def test_a_pattern_of_numbers_names_no_rendition() -> None:
    text = mpd('<SegmentTemplate media="$Number$.mp4" initialization="init-$RepresentationID$.mp4"/>')
    assert named(text, "12.mp4", "a.mpd")
    assert not named(text, "my_720p.mp4", "a.mpd")


@given(st.binary(max_size=300), st.sampled_from(["a.m3u8", "a.m3u", "a.mpd"]), st.text(max_size=30))
def test_any_content_is_read(content: bytes, name: str, path: str) -> None:
    assert names_in(content, name).include(path) in {True, False}


def test_a_hostile_playlist_costs_little() -> None:
    many = names_in(b"".join(b"%d.mp4\n" % number for number in range(3 * MAX_NAMES)), "a.m3u8")
    assert MAX_NAMES <= len(many) < MAX_NAMES + 20
    variables = '<S media="' + "$RepresentationID$a" * 200 + '"/>'
    slow = names_in(mpd(variables * 1000).encode(), "a.mpd")
    began = time.process_time()
    assert not slow.include("a" * 250 + "b")
    assert time.process_time() - began < 10
