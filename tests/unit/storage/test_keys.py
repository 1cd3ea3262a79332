"""Object keys and public URLs of renditions, and back."""

import uuid
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import db
from storage import (
    QUALITIES,
    ErrorKind,
    KeyTooLongError,
    ParsedKey,
    StorageError,
    key_of_url,
    object_key,
    parse_object_key,
    public_url,
)

VIDEO = "0b7f2a3e-9d55-4b8e-8f0d-8c2f2b7d4a11"
BASE_URL = "https://lam-brk.s3.ap-south-1.amazonaws.com"

file_names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/"), min_size=1, max_size=60
) | st.from_regex(r"[ a-c._%#?+&='\"é視]{1,12}(_720p|_original)?\.(mp4|MKV|tar\.gz)", fullmatch=True)
prefixes = st.sampled_from(["videos", "", "a/b c/d%20"])


@given(prefixes, st.uuids(), file_names, st.sampled_from(QUALITIES))
@example("videos", uuid.UUID(VIDEO), "my_video.mp4", "720p")
@example("videos", uuid.UUID(VIDEO), "clip_720p.mp4", "original")
@example("videos", uuid.UUID(VIDEO), "100% #1? a+b.final.cut.mp4", "144p")
@example("videos", uuid.UUID(VIDEO), ".mp4", "144p")
@example("videos", uuid.UUID(VIDEO), "...", "144p")
@example("videos", uuid.UUID(VIDEO), "a..b.mp4", "144p")
def test_a_rendition_becomes_a_key_becomes_a_url_and_each_leads_back(
    prefix: str, video: uuid.UUID, filename: str, quality: str
) -> None:
    assume(filename not in {".", ".."})
    key = object_key(prefix, str(video).upper(), filename, quality)
    assert key == object_key(prefix, video, filename, quality)
    url = public_url(BASE_URL, key)
    assert url.isascii()
    assert urlsplit(url).query == urlsplit(url).fragment == ""
    assert key_of_url(BASE_URL, url) == key
    assert parse_object_key(prefix, key, QUALITIES) == ParsedKey(str(video), filename, quality)


@given(file_names, st.sampled_from(QUALITIES), file_names, st.sampled_from(QUALITIES))
def test_two_renditions_never_share_a_key(one: str, quality: str, other: str, another: str) -> None:
    assume((one, quality) != (other, another))
    assume(not {one, other} & {".", ".."})
    assert object_key("videos", VIDEO, one, quality) != object_key("videos", VIDEO, other, another)


@pytest.mark.parametrize(
    ("filename", "quality", "key"),
    [
        ("my_video.mp4", "720p", f"videos/{VIDEO}/my_video_720p.mp4"),
        ("my_video.mp4", "original", f"videos/{VIDEO}/my_video_original.mp4"),
        ("my.own.cut.webm", "144p", f"videos/{VIDEO}/my.own.cut_144p.webm"),
        ("a b%c.mp4", "144p", f"videos/{VIDEO}/a b%c_144p.mp4"),
    ],
)
def test_a_key_is_what_the_contract_says(filename: str, quality: str, key: str) -> None:
    assert object_key("videos", VIDEO, filename, quality) == key


@pytest.mark.parametrize("prefix", ["videos", "/videos", "videos/", "/videos//"])
def test_slashes_around_the_prefix_do_not_count(prefix: str) -> None:
    key = object_key(prefix, VIDEO, "a.mp4", "144p")
    assert key == f"videos/{VIDEO}/a_144p.mp4"
    assert parse_object_key(prefix, key, QUALITIES) is not None


def test_a_url_is_encoded_segment_by_segment_and_the_key_is_not() -> None:
    key = object_key("my videos", VIDEO, "50% é+#?.mp4", "144p")
    assert key == f"my videos/{VIDEO}/50% é+#?_144p.mp4"
    assert public_url(f"{BASE_URL}/", key) == (
        f"{BASE_URL}/my%20videos/{VIDEO}/50%25%20%C3%A9%2B%23%3F_144p.mp4"
    )


@pytest.mark.parametrize("letter", ["a", "é", "視"])
def test_a_key_may_have_1024_bytes_and_no_more(letter: str) -> None:
    rest = 1024 - len(object_key("videos", VIDEO, ".mp4", "144p"))
    fitting = letter * (rest // len(letter.encode())) + "x" * (rest % len(letter.encode()))
    assert len(object_key("videos", VIDEO, f"{fitting}.mp4", "144p").encode()) == 1024

    with pytest.raises(KeyTooLongError) as caught:
        object_key("videos", VIDEO, f"{fitting}x.mp4", "144p")
    assert caught.value.kind is ErrorKind.OBJECT
    assert "1025 bytes" in caught.value.hint


def test_a_name_that_was_not_utf8_on_disk_is_this_objects_own_problem() -> None:
    with pytest.raises(StorageError) as caught:
        object_key("videos", VIDEO, b"caf\xe9.mp4".decode("utf-8", "surrogateescape"), "144p")
    assert caught.value.kind is ErrorKind.OBJECT
    assert caught.value.code == "key-not-unicode"
    str(caught.value).encode()


NAME = (VIDEO, "a.mp4", "144p")
HOSTILE = {
    0: ("", "../../other", f"{VIDEO}/..", f"{VIDEO}\n", VIDEO[1:], VIDEO.replace("-", ""), None, 7, b"x"),
    1: ("", ".", "..", "a/b.mp4", "../b.mp4", "/b.mp4", "a\nb.mp4", "a\x7f.mp4", "a\x85.mp4", None, 7, b"x"),
    2: ("", "999p", "144P", "144p/..", "../144p", "144p\n", None, 144, b"144p", ["144p"]),
}
"""By position in `NAME`: what object_key refuses there."""


@pytest.mark.parametrize(
    ("place", "value"), [(at, value) for at, values in HOSTILE.items() for value in values]
)
def test_what_names_no_rendition_makes_no_key(place: int, value: Any) -> None:
    arguments: list[Any] = list(NAME)
    arguments[place] = value
    with pytest.raises(StorageError) as caught:
        object_key("videos", *arguments)
    assert caught.value.kind is ErrorKind.OBJECT
    assert caught.value.code == ("invalid-video-id", "invalid-filename", "invalid-quality")[place]
    assert caught.value.hint.endswith(".")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("prefix", ["..", "videos/../other", "./videos", "videos/..", "a\nb"])
def test_a_prefix_that_leads_elsewhere_makes_no_key(prefix: str) -> None:
    with pytest.raises(StorageError) as caught:
        object_key(prefix, *NAME)
    assert caught.value.code == "invalid-prefix"


def test_the_qualities_are_those_of_the_catalog_unless_others_are_given() -> None:
    assert QUALITIES == db.QUALITIES
    assert object_key("", VIDEO, "a.mp4", "hd", qualities=["hd"]) == f"{VIDEO}/a_hd.mp4"
    with pytest.raises(StorageError, match="pass one of hd"):
        object_key("", *NAME, qualities=["hd"])


@pytest.mark.parametrize(
    "key",
    [
        "",
        "videos",
        f"videos/{VIDEO}",
        f"videos/{VIDEO}/",
        f"videos/{VIDEO}/a.mp4",
        f"videos/{VIDEO}/a_999p.mp4",
        f"videos/{VIDEO}/_144p.mp4",
        f"videos/{VIDEO}/.._144p",
        f"videos/{VIDEO}/a\n_144p.mp4",
        f"videos/{VIDEO}/sub/a_144p.mp4",
        f"videos/{VIDEO.upper()}/a_144p.mp4",
        f"videos/{VIDEO.replace('-', '')}/a_144p.mp4",
        "videos/not-a-uuid/a_144p.mp4",
        f"videosX/{VIDEO}/a_144p.mp4",
        f"other/{VIDEO}/a_144p.mp4",
    ],
)
def test_a_key_we_would_not_have_made_names_no_rendition(key: str) -> None:
    assert parse_object_key("videos", key, QUALITIES) is None


def test_of_two_quality_words_that_fit_the_longer_one_is_meant() -> None:
    parsed = parse_object_key("", f"{VIDEO}/a_hd_720p.mp4", ["720p", "hd_720p"])
    assert parsed == ParsedKey(VIDEO, "a.mp4", "hd_720p")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/videos/a.mp4",
        f"{BASE_URL}.evil.example/videos/a.mp4",
        BASE_URL,
        f"{BASE_URL}/",
        f"{BASE_URL}/videos/a.mp4?versionId=1",
        f"{BASE_URL}/videos/a.mp4#t=10",
        f"{BASE_URL}/videos/%E9.mp4",
    ],
)
def test_a_url_that_is_not_of_our_bucket_has_no_key(url: str) -> None:
    assert key_of_url(BASE_URL, url) is None


def test_a_url_that_others_encoded_in_another_way_has_the_same_key() -> None:
    assert key_of_url(BASE_URL, f"{BASE_URL}/videos/my%20video's%2b.mp4") == "videos/my video's+.mp4"
