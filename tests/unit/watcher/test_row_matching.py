"""Matching rows to files: by the URLs that the compressor writes unencoded, else by quality."""

from __future__ import annotations

import posixpath
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from os.path import splitext
from pathlib import Path
from typing import Literal, get_args
from unicodedata import normalize
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import CatalogRow, CompressorTable, Ledger, State, migrate, open_database, sqlite_url
from tests.support.databases import enqueue
from tests.support.uploads import make_upload
from watcher.catalog.gate import Admitted, CatalogGate
from watcher.catalog.row_matching import describe_others, rows_of_file
from watcher.renditions import Naming, rendition_of

UPLOAD = make_upload()
VIDEO = UPLOAD.video_id
LOCAL = f"https://example.com/videos/{VIDEO}"
NAMING = Naming(prefix="videos", public_base="https://bucket.example", local_base="file:///completed")
PUBLIC = f"https://bucket.example/videos/{VIDEO}"
BEGAN = datetime(2026, 1, 2, tzinfo=UTC)


def row(url: str, quality: str = "720p", status: str = "ready", *, age: int = 0) -> CatalogRow:
    """A row, `age` seconds newer than the first one."""
    made = BEGAN + timedelta(seconds=age)
    return CatalogRow(f"id of {url} {age}", VIDEO, quality, url, status, 1, made, made)


def found(name: str, *rows: CatalogRow, quality: str = "720p", known_urls: tuple[str, ...] = ()) -> list[str]:
    """The URLs of the rows that are those of a file, oldest first."""
    upload = replace(UPLOAD, path=f"{VIDEO}/{name}", quality=quality)
    return [match.url for match in rows_of_file(upload, rows, NAMING, known_urls=known_urls)]


def test_a_row_is_the_files_if_its_url_ends_in_video_and_name() -> None:
    ours, other = row(f"{LOCAL}/a_720p.mp4"), row(f"{LOCAL}/b_720p.mp4")
    assert found("a_720p.mp4", ours, other) == [ours.url]


def test_another_video_s_file_of_the_same_name_is_another_file() -> None:
    elsewhere = row(LOCAL.replace("0b8e", "1b8e") + "/a_720p.mp4")
    assert found("a_720p.mp4", elsewhere) == []


def test_the_row_of_an_original_that_shows_its_object_is_not_that_of_a_stray_file_of_the_objects_name() -> (
    None
):
    published = row(f"{PUBLIC}/clip_original.mp4", "original")
    assert found("clip_original.mp4", published, quality="original") == []
    assert found("clip.mp4", published, quality="original") == [published.url]


@pytest.mark.parametrize(
    "name", ["a?b=1_720p.mp4", "a#b_720p.mp4", "100%_720p.mp4", "a%20b_720p.mp4", "ä+ö_720p.mp4"]
)
def test_an_unencoded_name_is_taken_literally(name: str) -> None:
    assert found(name, row(f"{LOCAL}/{name}")) == [f"{LOCAL}/{name}"]


def test_a_percent_encoded_name_is_decoded() -> None:
    assert found("a b_720p.mp4", row(f"{LOCAL}/a%20b_720p.mp4")) == [f"{LOCAL}/a%20b_720p.mp4"]


def test_a_literal_match_wins_over_a_decoded_one() -> None:
    """`a b` and `a%20b` are two files of one video; each has its own row."""
    raw, encoded = row(f"{LOCAL}/a b_720p.mp4"), row(f"{LOCAL}/a%20b_720p.mp4")
    assert found("a b_720p.mp4", raw, encoded) == [raw.url]
    assert found("a%20b_720p.mp4", raw, encoded) == [encoded.url]


def test_the_newest_row_comes_last_however_they_were_read() -> None:
    old, new = row(f"{LOCAL}/a_720p.mp4"), row(f"https://other.example/{VIDEO}/a_720p.mp4", age=1)
    assert found("a_720p.mp4", new, old) == [old.url, new.url]


def test_a_row_that_shows_the_object_is_the_files() -> None:
    shown = row(f"{PUBLIC}/a_original.mp4", "original")
    assert found("a.mp4", shown, quality="original") == [shown.url]


def test_a_source_called_like_a_rendition_does_not_take_the_rows_of_its_renditions() -> None:
    """`clip_720p.mp4` is an original here; its renditions show objects whose keys begin with its name."""
    renditions = [row(f"{PUBLIC}/clip_720p_{quality}.mp4", quality) for quality in ("144p", "720p")]
    original = row(f"{LOCAL}/clip_720p.mp4", "original")
    assert found("clip_720p.mp4", *renditions, original) == [original.url]
    assert found("clip_720p.mp4", *renditions) == []
    assert found("_144p.mp4", row(f"{PUBLIC}/_144p_144p.mp4", "144p"), quality="original") == []


def test_an_address_the_object_once_had_is_still_the_files() -> None:
    old = row("https://gone.example/x", "original")
    assert found("a.mp4", old, quality="original", known_urls=(old.url,)) == [old.url]


def test_without_any_such_row_video_and_quality_decide_unless_it_shows_another_file() -> None:
    nameless, other = row("https://player.example/watch?v=1"), row(f"{LOCAL}/b_720p.mp4")
    assert found("a_720p.mp4", nameless, other) == [nameless.url]
    assert found("a_720p.mp4", replace(nameless, quality="480p")) == []
    assert found("a_720p.mp4", nameless, row(f"{LOCAL}/a_720p.mp4")) == [f"{LOCAL}/a_720p.mp4"]


@pytest.mark.parametrize(
    ("name", "quality", "filename", "key"),
    [
        ("clip_720p.mp4", "720p", "clip.mp4", "clip_720p.mp4"),
        ("clip_720p.mp4", "original", "clip_720p.mp4", "clip_720p_original.mp4"),
        ("clip_original.mp4", "original", "clip_original.mp4", "clip_original_original.mp4"),
        ("_144p.mp4", "144p", "_144p.mp4", "_144p_144p.mp4"),
        ("clip.mov", "original", "clip.mov", "clip_original.mov"),
    ],
)
def test_the_row_s_quality_decides_the_key(
    tmp_path: Path, name: str, quality: str, filename: str, key: str
) -> None:
    chosen = row(f"{LOCAL}/{name}", quality)
    with closing(open_database(sqlite_url(str(tmp_path / "ledger.sqlite3")))) as database:
        table, ledger = CompressorTable(database, "test"), Ledger(database, "test")
        gate = CatalogGate(table, ledger, NAMING, row_timeout=timedelta(hours=1), wake=lambda _: None)
        decision = gate.admit(replace(UPLOAD, path=f"{VIDEO}/{name}"), [chosen])
    assert decision == Admitted(
        {
            "catalog_row_id": chosen.id,
            "catalog_row_at": chosen.created_at,
            "filename": filename,
            "quality": quality,
            "object_key": f"videos/{VIDEO}/{key}",
        }
    )


COMPRESSOR = f"https://lam-brk.s3.ap-south-1.amazonaws.com/videos/{VIDEO}"
"""The compressor's own upload, which it may have made to another bucket than the present one."""


@pytest.mark.parametrize("name", ["movie_144p.mov", "movie_144p.mp4", "movie_144p", "movie%5F144p.mov"])
def test_the_object_that_the_compressor_uploaded_of_a_rendition_has_the_extension_of_its_source(
    name: str,
) -> None:
    uploaded = row(f"{COMPRESSOR}/{name}", "144p")
    assert found("movie_144p.mp4", uploaded, quality="144p") == [uploaded.url]
    assert found("movie_144p.mp4", replace(uploaded, quality="240p"), quality="144p") == (
        [uploaded.url] if name == "movie_144p.mp4" else []
    )
    assert found("other_144p.mp4", uploaded, quality="144p") == []
    assert found("movie.mov", uploaded, quality="original") == []


def test_a_source_called_like_a_rendition_does_not_take_the_row_of_one_of_another_extension() -> None:
    """`clip_720p.mov` waits for its own row, which comes last."""
    rendition = row(f"{LOCAL}/clip_720p.mp4", "720p")
    assert found("clip_720p.mov", rendition, quality="720p") == []
    original = row(f"{LOCAL}/clip_720p.mov", "original")
    assert found("clip_720p.mov", rendition, original, quality="720p") == [original.url]
    assert found("clip_720p.mp4", rendition, original, quality="720p") == [rendition.url]


@given(
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30),
    st.sampled_from([".mov", ".mp4", ".MKV", ""]),
)
def test_what_the_compressor_uploaded_is_found_whatever_the_name(base: str, extension: str) -> None:
    """Its URLs are not encoded: `%`, `#` and `?` stand as they are."""
    rendition = row(f"{COMPRESSOR}/{base}_720p{extension}", "720p")
    original = row(f"{COMPRESSOR}/{base}_original{extension}", "original")
    assert found(f"{base}_720p.mp4", rendition, original) == [rendition.url]
    name = f"{base}{extension}"
    if splitext(name) == (base, extension):
        assert found(name, rendition, original, quality="original") == [original.url]


def test_a_copy_in_a_directory_that_is_written_otherwise_has_only_the_rows_that_name_it() -> None:
    """Both directories are those of the same video."""
    lower = row(f"{LOCAL}/a_720p.mp4")
    upper = row(f"https://example.com/videos/{VIDEO.upper()}/a_720p.mp4", age=1)
    shown = row(f"{PUBLIC}/a_720p.mp4", age=2)
    nameless = row("https://player.example/watch?v=1")
    copy = replace(UPLOAD, path=f"{VIDEO.upper()}/a_720p.mp4", quality="720p")
    assert rows_of_file(copy, [lower, shown, nameless], NAMING) == []
    assert rows_of_file(copy, [nameless], NAMING) == []
    assert rows_of_file(copy, [lower, upper, shown], NAMING) == [upper]
    assert rows_of_file(replace(copy, url=shown.url), [lower, upper, shown], NAMING) == [upper, shown]
    assert found("a_720p.mp4", lower, upper, shown) == [lower.url, shown.url]
    assert found("a_720p.mp4", upper) == []


def test_what_the_rows_of_other_files_are_is_told_the_newest_last() -> None:
    rows = [
        row(f"{LOCAL}/b_720p.mp4"),
        row(f"https://example.com/videos/{VIDEO.upper()}/a_720p.mp4", status="processing"),
        row("https://player.example/watch?v=1", "480p"),
    ]
    upload = replace(UPLOAD, path=f"{VIDEO}/a_720p.mp4", quality="720p")
    assert describe_others(upload, [replace(one, id=str(n)) for n, one in enumerate(rows)]) == (
        "Row 0 (720p, ready) names another file, b_720p.mp4. "
        f"Row 1 (720p, processing) names the directory {VIDEO.upper()}, and the file is in {VIDEO}. "
        "Row 2 (480p, ready) names no file, and the quality of the file is 720p."
    )
    assert describe_others(upload, []) == ""
    many = describe_others(upload, rows[:1] * 7)
    assert many.startswith("The video has 7 rows, all of other files; the newest are: Row")
    assert many.count("names another file") == 5


@given(
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
)
def test_a_file_of_any_name_is_found_by_its_local_and_its_public_url(base: str) -> None:
    """The local URL as the compressor writes it, and the public URL as we do."""
    name = f"{base}_720p.mp4"
    key = NAMING.key(rendition_of(VIDEO, f"{VIDEO}/{name}", "720p"))
    local, public = row(f"{LOCAL}/{name}"), row(NAMING.public_url_of(key), age=1)
    assert found(name, local, public) == [local.url, public.url]


Form = Literal["NFC", "NFD"]
MIXED = "\u00e9te\u0301 100%"
"""A name that is composed only in part, as some programs leave it."""


@pytest.mark.parametrize("kind", ["as it is", "encoded", "public"])
@pytest.mark.parametrize(
    ("on_disk", "in_row"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", None), ("NFC", None)]
)
def test_a_name_in_another_normal_form_is_the_same_one(on_disk: Form, in_row: Form | None, kind: str) -> None:
    name = normalize(on_disk, MIXED) + "_720p.mp4"
    other = (MIXED if in_row is None else normalize(in_row, MIXED)) + "_720p.mp4"
    assert name != other
    shown = {
        "as it is": f"{LOCAL}/{other}",
        "encoded": f"{LOCAL}/{quote(other)}",
        "public": NAMING.public_url_of(f"videos/{VIDEO}/{other}"),
    }[kind]
    assert found(name, row(shown)) == [shown]
    assert found(name.replace("t", "d"), row(shown)) == []
    key = NAMING.key(rendition_of(VIDEO, f"{VIDEO}/{name}", "720p"))
    assert key == f"videos/{VIDEO}/{name}"


def test_a_name_as_it_is_written_wins_over_one_in_another_normal_form() -> None:
    forms: tuple[Form, Form] = ("NFC", "NFD")
    names = [normalize(form, MIXED) + "_720p.mp4" for form in forms]
    rows = [row(f"{LOCAL}/{name}") for name in names]
    for name, own in zip(names, rows, strict=True):
        assert found(name, *rows) == [own.url]
        published = row(NAMING.public_url_of(f"videos/{VIDEO}/{name}"), age=1)
        assert found(name, *rows, published) == [own.url, published.url]


def test_an_encoded_name_in_another_normal_form_is_decoded_only_if_no_row_has_it_literally() -> None:
    literal, plain = row(f"{LOCAL}/\u00e9%20b_720p.mp4"), row(f"{LOCAL}/\u00e9 b_720p.mp4")
    assert found("e\u0301 b_720p.mp4", literal, plain) == [plain.url]
    assert found("e\u0301%20b_720p.mp4", literal, plain) == [literal.url]
    assert found("e\u0301 b_720p.mp4", literal) == [literal.url]


def test_the_row_of_a_file_is_not_that_of_its_twin_in_another_normal_form(tmp_path: Path) -> None:
    """Two uploads that publish onto one row would replace each other's URL for ever."""
    composed, decomposed = (f"{VIDEO}/{normalize(form, MIXED)}_720p.mp4" for form in get_args(Form))
    shown = row(f"{LOCAL}/{posixpath.basename(composed)}")
    own, twin = (replace(UPLOAD, path=path, quality="720p") for path in (composed, decomposed))
    with closing(open_database(sqlite_url(str(tmp_path / "ledger.sqlite3")))) as database:
        migrate(database)
        ledger = Ledger(database, "test")
        assert rows_of_file(twin, [shown], NAMING, ledger=ledger) == [shown]
        upload = enqueue(ledger, composed)
        assert rows_of_file(twin, [shown], NAMING, ledger=ledger) == []
        assert rows_of_file(own, [shown], NAMING, ledger=ledger) == [shown]
        ledger.advance(upload, State.GONE)
        assert rows_of_file(twin, [shown], NAMING, ledger=ledger) == [shown]


def test_a_quality_word_in_another_case_shows_the_same_object() -> None:
    shown = row(f"{PUBLIC}/clip_720p.mp4")
    assert found("clip_720P.mp4", shown) == [shown.url]
    named = row(f"{LOCAL}/clip_720P.mp4")
    assert found("clip_720P.mp4", named) == [named.url]
