"""What a path names: a rendition, an original, or neither, with a reason."""

import string
from typing import Literal
from unicodedata import normalize

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from db import QUALITIES
from storage import key_of_url, object_key, parse_object_key, public_url
from watcher.renditions import (
    Ignored,
    Naming,
    PathTemplate,
    Rendition,
    TemplateError,
    check_template,
    rendition_of,
)

VIDEO = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
DEFAULT = "{video_id}/{filename}_{quality}{ext}"
Form = Literal["NFC", "NFD"]
BY_DIRECTORY = "{video_id}/{quality}/{filename}{ext}"
WITHOUT_FILENAME = "{video_id}_{quality}{ext}"
EXTENSIONS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts")


def template(
    text: str = DEFAULT,
    *,
    qualities: tuple[str, ...] = QUALITIES,
    extensions: tuple[str, ...] = EXTENSIONS,
    ignore: tuple[str, ...] = (".*", "*.tmp", "*.part", "*.partial", "*~"),
    rows_decide: bool = False,
) -> PathTemplate:
    return PathTemplate(
        text, qualities=qualities, extensions=extensions, ignore=ignore, rows_decide=rows_decide
    )


def reason(path: str, made: PathTemplate | None = None) -> str:
    """Why a path is ignored."""
    found = (made or template()).classify(path)
    assert isinstance(found, Ignored), found
    return found.reason


@pytest.mark.parametrize(
    ("path", "filename", "quality"),
    [
        (f"{VIDEO}/my_video_720p.mp4", "my_video.mp4", "720p"),
        (f"{VIDEO}/a b_144p.mp4", "a b.mp4", "144p"),
        (f"{VIDEO}/été 日本 🎬_2160p.mkv", "été 日本 🎬.mkv", "2160p"),
        (f"{VIDEO}/100%_#1+1='2'\"?&_480p.webm", "100%_#1+1='2'\"?&.webm", "480p"),
        (f"{VIDEO}/my.final.cut.v2_1080p.mov", "my.final.cut.v2.mov", "1080p"),
        (f"{VIDEO}/a__b___720p.mp4", "a__b__.mp4", "720p"),
        (f"{VIDEO}/{{quality}}_{{ext}}_720p.mp4", "{quality}_{ext}.mp4", "720p"),
        (f"{VIDEO}/SHOUTED_720p.MP4", "SHOUTED.MP4", "720p"),
        (f"{VIDEO}/back\\slash_720p.mp4", "back\\slash.mp4", "720p"),
        (f"{VIDEO}/clip_720p_720p.mp4", "clip_720p.mp4", "720p"),
        (f"{VIDEO}/clip_480p_720p.mp4", "clip_480p.mp4", "720p"),
        (f"{VIDEO}/clip_720P.mp4", "clip.mp4", "720p"),
        (f"{VIDEO}/CLIP_720P_1080P.MP4", "CLIP_720P.MP4", "1080p"),
        (f"{VIDEO}/clip_ORIGINAL.mp4", "clip.mp4", "original"),
        (f"{VIDEO}/e\u0301te\u0301_720P.mp4", "e\u0301te\u0301.mp4", "720p"),
    ],
)
def test_the_default_template_names_a_rendition(path: str, filename: str, quality: str) -> None:
    assert template().classify(path) == Rendition(VIDEO, filename, quality)


@pytest.mark.parametrize(
    ("name", "filename"),
    [
        ("my_video.mp4", "my_video.mp4"),
        ("my_video_original.mp4", "my_video.mp4"),
        ("holiday_999p.mp4", "holiday_999p.mp4"),
        ("my_video_Original.mp4", "my_video.mp4"),
        ("720p.mp4", "720p.mp4"),
        ("_720p.mp4", "_720p.mp4"),
        ("original.mp4", "original.mp4"),
        ("_original.mp4", "_original.mp4"),
    ],
)
def test_a_file_without_a_known_quality_is_the_original_and_so_is_the_suffix(
    name: str, filename: str
) -> None:
    made = template(rows_decide=True)
    assert made.classify(f"{VIDEO}/{name}") == Rendition(VIDEO, filename, "original")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("a_4320p.mp4", "4320p"),
        ("a_1080i.mp4", "1080i"),
        ("a_720p60.mp4", "720p60"),
        ("a_4K.mp4", "4K"),
        ("a 999p.mp4", "999p"),
        ("clip540p.mp4", "540p"),
    ],
)
def test_what_ends_in_an_unknown_quality_is_no_original_unless_rows_decide(name: str, word: str) -> None:
    """All of them would be originals of one video."""
    path = f"{VIDEO}/{name}"
    assert reason(path) == f"it has {word}, which looks like a quality and is not in QUALITIES"
    assert template(rows_decide=True).classify(path) == Rendition(VIDEO, name, "original")


@pytest.mark.parametrize(
    "name", ["a-720p.mp4", "a.720p.mp4", "a 720p.mp4", "720p.mp4", "_720p.mp4", "a720p.mp4"]
)
def test_a_quality_where_the_template_has_none_makes_no_original_unless_rows_decide(name: str) -> None:
    path = f"{VIDEO}/{name}"
    assert reason(path) == f"it has the quality 720p where PATH_TEMPLATE {DEFAULT} has none"
    assert template(rows_decide=True).classify(path) == Rendition(VIDEO, name, "original")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (DEFAULT, "clip_720p.mp4"),
        ("{video_id}/{quality}-{filename}{ext}", "720p-clip.mp4"),
        ("{video_id}/{quality}{ext}", "720p.mp4"),
        ("{video_id}/{filename}.{quality}.x{ext}", "clip.720p.x.mp4"),
    ],
)
def test_qualities_that_are_left_out_are_ignored(text: str, name: str) -> None:
    made = template(text, qualities=("360p", "original"))
    path = f"{VIDEO}/{name}"
    assert reason(path, made) == "it has 720p, which looks like a quality and is not in QUALITIES"
    known = made.classify(path.replace("720p", "360p"))
    assert isinstance(known, Rendition)
    assert known.quality == "360p"


@pytest.mark.parametrize("name", ["a-HD.mp4", "a-hd.mp4"])
def test_qualities_of_other_names_count_too(name: str) -> None:
    assert "quality" in reason(f"{VIDEO}/{name}", template(qualities=("hd", "original")))


@pytest.mark.parametrize(
    "name",
    [
        "my_video.mp4",
        "clip_720p_original.mp4",
        "holiday 2024.mp4",
        "a_720p (copy).mp4",
        "top.mp4",
        "10k.run.mp4",
        "walk12k.mp4",
        "v12345678p.mp4",
        "original.mp4",
        "the-original.mp4",
        "shd.mp4",
    ],
)
@pytest.mark.parametrize("qualities", [QUALITIES, ("hd", "original"), ("original",)])
def test_what_does_not_look_like_a_rendition_is_an_original(name: str, qualities: tuple[str, ...]) -> None:
    found = template(qualities=qualities).classify(f"{VIDEO}/{name}")
    assert isinstance(found, Rendition)
    assert found.quality == "original"


@pytest.mark.parametrize("text", [BY_DIRECTORY, WITHOUT_FILENAME, "library/{video_id}-{quality}{ext}"])
def test_originals_are_recognized_with_any_template(text: str) -> None:
    made = template(text)
    assert made.classify(f"{VIDEO}/my.mp4") == Rendition(VIDEO, "my.mp4", "original")
    assert made.classify(f"{VIDEO}/my_original.mp4") == Rendition(VIDEO, "my.mp4", "original")


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        (BY_DIRECTORY, f"{VIDEO}/720p/my_video.mp4", Rendition(VIDEO, "my_video.mp4", "720p")),
        (BY_DIRECTORY, f"{VIDEO}/original/my.mp4", Rendition(VIDEO, "my.mp4", "original")),
        (WITHOUT_FILENAME, f"{VIDEO}_1080p.webm", Rendition(VIDEO, "video.webm", "1080p")),
        ("{video_id}/{quality}{ext}", f"{VIDEO}/720p.mp4", Rendition(VIDEO, "video.mp4", "720p")),
        ("{video_id}/{quality}{ext}", f"{VIDEO}/my.mp4", Rendition(VIDEO, "my.mp4", "original")),
        (
            "{quality}/{filename} [{video_id}]{ext}",
            f"720p/a b [{VIDEO}].ts",
            Rendition(VIDEO, "a b.ts", "720p"),
        ),
        (
            "v.x/{video_id}/{filename}.{quality}{ext}",
            f"v.x/{VIDEO}/a.720p.mp4",
            Rendition(VIDEO, "a.mp4", "720p"),
        ),
    ],
)
def test_other_templates_name_renditions_too(text: str, path: str, expected: Rendition) -> None:
    assert template(text).classify(path) == expected


def test_text_between_placeholders_is_literal() -> None:
    made = template("v.x/{video_id}/{filename}.{quality}{ext}")
    assert "does not fit" in reason(f"vyx/{VIDEO}/a.720p.mp4", made)
    assert "does not fit" in reason(f"v.x/{VIDEO}/aX720p.mp4", made)


@pytest.mark.parametrize("written", [VIDEO.upper(), VIDEO.title(), VIDEO])
def test_a_video_id_in_any_case_is_one_video(written: str) -> None:
    assert template().classify(f"{written}/a_720p.mp4") == Rendition(VIDEO, "a.mp4", "720p")


@pytest.mark.parametrize(
    "path",
    [
        "a_720p.mp4",
        "not-a-uuid/a_720p.mp4",
        f"{VIDEO}0/a_720p.mp4",
        f"{VIDEO.replace('-', '')}/a_720p.mp4",
        f"{{{VIDEO}}}/a_720p.mp4",
        f"{VIDEO}/deeper/a_720p.mp4",
        f"deeper/{VIDEO}/a_720p.mp4",
        f"/{VIDEO}/a_720p.mp4",
        f"{VIDEO}//a_720p.mp4",
        VIDEO.replace("0", "\N{FULLWIDTH DIGIT ZERO}") + "/a_720p.mp4",
    ],
)
def test_a_path_that_does_not_fit_is_ignored_and_the_reason_names_the_template(path: str) -> None:
    assert reason(path) == f"it does not fit PATH_TEMPLATE {DEFAULT}"


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (f"{VIDEO}/.hidden_720p.mp4", ".*"),
        (f".trash/{VIDEO}/a_720p.mp4", ".*"),
        (f"{VIDEO}/a_720p.mp4.tmp", "*.tmp"),
        (f"{VIDEO}.part/a_720p.mp4", "*.part"),
        (f"{VIDEO}/a_720p.mp4.partial", "*.partial"),
        (f"{VIDEO}/a_720p.mp4~", "*~"),
    ],
)
def test_an_ignore_pattern_applies_to_every_component_of_a_path(path: str, pattern: str) -> None:
    assert reason(path) == f"it matches {pattern} of IGNORE_PATTERNS"
    assert template().ignores(path) == pattern


@pytest.mark.parametrize("name", ["a_720p.log", "a_720p.mp4.txt", "a_720p", "mp4", "a_720p."])
def test_an_extension_outside_the_list_is_never_uploaded(name: str) -> None:
    assert "is not in VIDEO_EXTENSIONS" in reason(f"{VIDEO}/{name}")


@pytest.mark.parametrize("name", ["a\n_720p.mp4", "a\x1b[2J_720p.mp4", "a\x7f_720p.mp4", "a\x85_720p.mp4"])
def test_control_characters_are_ignored(name: str) -> None:
    assert reason(f"{VIDEO}/{name}") == "its name contains control characters"


def test_a_name_that_is_not_text_is_ignored() -> None:
    assert reason(f"{VIDEO}/a\udcff_720p.mp4") == "its name is not valid UTF-8"


def test_an_original_is_ignored_where_the_word_is_not_among_the_qualities() -> None:
    assert "not in QUALITIES" in reason(f"{VIDEO}/a.mp4", template(qualities=("720p",)))


@pytest.mark.parametrize("written", ["720p", "720P"])
def test_the_case_of_a_quality_word_changes_no_key(written: str) -> None:
    """`S3Service` and the daemon give a rendition the same key."""
    found = template().classify(f"{VIDEO}/clip_{written}.mp4")
    assert isinstance(found, Rendition)
    naming = Naming(prefix="videos", public_base="https://b.example", local_base="file:///x")
    assert naming.key(found) == object_key("videos", VIDEO, "clip.mp4", "720p")
    by_row = rendition_of(VIDEO, f"{VIDEO}/clip_{written}.mp4", "720p")
    assert naming.key(by_row) == naming.key(found)


@pytest.mark.parametrize(
    "word", ["4\N{KELVIN SIGN}", "7\N{ARABIC-INDIC DIGIT TWO}0p", "u\N{LATIN SMALL LETTER LONG S}"]
)
def test_only_letters_of_ascii_have_another_case(word: str) -> None:
    made = template(qualities=("4k", "us", "original"))
    found = made.classify(f"{VIDEO}/clip_{word}.mp4")
    assert found == Rendition(VIDEO, f"clip_{word}.mp4", "original")


def test_qualities_that_differ_only_in_case_are_two() -> None:
    made = template(qualities=("hd", "HD", "original"))
    for word, quality in (("hd", "hd"), ("HD", "HD"), ("hD", "HD")):
        assert made.classify(f"{VIDEO}/a_{word}.mp4") == Rendition(VIDEO, "a.mp4", quality)


@pytest.mark.parametrize("by", ["NFC", "NFD"])
@pytest.mark.parametrize("on", ["NFC", "NFD"])
def test_template_and_ignore_patterns_match_names_in_either_normal_form(by: Form, on: Form) -> None:
    made = template(
        normalize(by, "vid\u00e9os/{video_id}/{filename}_{quality}{ext}"),
        ignore=(normalize(by, "*\u00e9.mp4"),),
    )
    path = normalize(on, f"vid\u00e9os/{VIDEO}/\u00fc_720p.mp4")
    assert made.classify(path) == Rendition(VIDEO, normalize(on, "\u00fc.mp4"), "720p")
    assert made.ignores(normalize(on, f"vid\u00e9os/{VIDEO}/caf\u00e9.mp4"))


def test_of_two_matching_quality_words_the_longer_one_applies() -> None:
    made = template("{video_id}/{filename}-{quality}{ext}", qualities=("0p", "720p", "original"))
    assert made.classify(f"{VIDEO}/a-720p.mp4") == Rendition(VIDEO, "a.mp4", "720p")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{video_id}/{filename}{ext}", "{quality} is missing"),
        ("{filename}_{quality}{ext}", "{video_id} is missing"),
        ("{video_id}_{quality}.mp4", "{ext} is missing"),
        ("{video_id}/{title}_{quality}{ext}", "{title} is not a placeholder"),
        ("{video_id}/{video_id}_{quality}{ext}", "{video_id} occurs more than once"),
        ("{video_id}{ext}/{quality}", "it does not end with {ext}"),
        ("/{video_id}_{quality}{ext}", "empty"),
        ("../{video_id}_{quality}{ext}", "'..'"),
        ("{video_id}/{filename}{quality}{ext}", "adjacent"),
        ("{video_id}/a{b_{quality}{ext}", "brace"),
        ("{video_id}/a}_{quality}{ext}", "brace"),
    ],
)
def test_a_template_that_cannot_name_a_rendition_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(TemplateError) as refused:
        check_template(text)
    assert complaint in str(refused.value)


AWKWARD = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=30),
    st.text(" %#?+&='\"._-~{}[]\\ép720original", min_size=1, max_size=30),
)
NAMES = st.builds("{}{}".format, AWKWARD, st.sampled_from([*EXTENSIONS, ".MP4", ".WebM"]))
BASE_URLS = ("https://lam-brk.s3.ap-south-1.amazonaws.com", "http://127.0.0.1:9000/bucket")


@given(
    text=st.sampled_from([DEFAULT, BY_DIRECTORY, "{quality}/{video_id}/{filename}{ext}"]),
    video_id=st.uuids(),
    shout=st.booleans(),
    filename=NAMES,
    quality=st.sampled_from(QUALITIES),
    base_url=st.sampled_from(BASE_URLS),
)
def test_from_path_to_rendition_to_key_to_url_and_back(
    text: str, video_id: object, shout: bool, filename: str, quality: str, base_url: str
) -> None:
    """No name loses information between path and URL."""
    base, dot, extension = filename.rpartition(".")
    written = str(video_id).upper() if shout else str(video_id)
    path = text.format(video_id=written, filename=base, quality=quality, ext=dot + extension)
    made = template(text)
    rendition = made.classify(path)
    assume(not isinstance(rendition, Ignored))
    assert isinstance(rendition, Rendition)
    assert rendition == Rendition(str(video_id), filename, quality)

    key = object_key("videos", rendition.video_id, rendition.filename, rendition.quality)
    assert key == f"videos/{video_id}/{base}_{quality}.{extension}"
    url = public_url(base_url, key)
    assert set(url) <= set(string.ascii_letters + string.digits + "-._~%:/")
    assert key_of_url(base_url, url) == key
    parsed = parse_object_key("videos", key, QUALITIES)
    assert parsed == (rendition.video_id, rendition.filename, rendition.quality)


@given(st.text(max_size=80))
def test_any_path_is_classified(path: str) -> None:
    assert isinstance(template().classify(path), Ignored | Rendition)
