"""Media types by extension."""

import pytest

from storage import content_type


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
        ("videos/x.y/a.b_720p.MP4", "video/mp4"),
        ("a.unheard-of", "application/octet-stream"),
        ("mp4", "application/octet-stream"),
    ],
)
def test_the_extension_alone_decides_the_media_type(name: str, expected: str) -> None:
    assert content_type(name) == expected
