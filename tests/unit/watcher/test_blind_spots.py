"""Which directories nobody can look into, as of the last scan that came by."""

from __future__ import annotations

from watcher.detection.blind_spots import UnreadableDirectories


def test_a_reason_is_news_once() -> None:
    spots = UnreadableDirectories()
    assert [spots.add("a", "No."), spots.add("a", "No."), spots.add("a", "Never.")] == [True, False, True]
    assert spots.first(5) == {"a": "Never."}


def test_a_scan_speaks_for_what_is_below_its_directory_alone() -> None:
    spots = UnreadableDirectories()
    for path in ("a", "a/b", "ab", "c"):
        spots.add(path, "No.")
    assert spots.replace("a", {"a/b": "No."}) == ["a"]
    assert list(spots.first(5)) == ["a/b", "ab", "c"]
    assert spots.replace("", {"c": "No."}) == ["a/b", "ab"]
    assert len(spots) == 1


def test_only_so_many_are_shown() -> None:
    spots = UnreadableDirectories()
    for path in ("c", "a", "b"):
        spots.add(path, "No.")
    assert list(spots.first(2)) == ["a", "b"]
