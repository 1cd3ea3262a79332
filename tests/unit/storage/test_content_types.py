"""Media types by extension."""

import re

import pytest

from storage import CONTENT_TYPES, content_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.mp4", "video/mp4"),
        ("a.m4v", "video/mp4"),
        ("a.mov", "video/quicktime"),
        ("a.webm", "video/webm"),
        ("a.mkv", "video/x-matroska"),
        ("a.avi", "video/x-msvideo"),
        ("a.ts", "video/mp2t"),
        ("a.m2ts", "video/mp2t"),
        ("a.MTS", "video/mp2t"),
        ("a.wmv", "video/x-ms-wmv"),
        ("a.asf", "video/x-ms-asf"),
        ("a.flv", "video/x-flv"),
        ("a.f4v", "video/mp4"),
        ("a.3gp", "video/3gpp"),
        ("a.3g2", "video/3gpp2"),
        ("a.mpg", "video/mpeg"),
        ("a.mpeg", "video/mpeg"),
        ("a.vob", "video/mpeg"),
        ("a.ogv", "video/ogg"),
        ("a.mxf", "application/mxf"),
        ("videos/x.y/a.b_720p.MP4", "video/mp4"),
        ("a.unheard-of", "application/octet-stream"),
        ("mp4", "application/octet-stream"),
    ],
)
def test_the_extension_alone_decides_the_media_type(name: str, expected: str) -> None:
    assert content_type(name) == expected


def test_every_extension_is_lower_case_and_every_type_has_the_form_of_one() -> None:
    assert all(re.fullmatch(r"\.[a-z0-9]+", extension) for extension in CONTENT_TYPES)
    assert all(re.fullmatch(r"(video|application)/[a-z0-9.-]+", found) for found in CONTENT_TYPES.values())
