"""A message of another library that quotes a secret, or a piece of one, is shown without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import DatabaseError, ErrorKind
from watcher.errors import failure_of
from watcher.settings import SettingsError, load_settings
from watcher.settings.loading import SECRETS
from watcher.telemetry.redaction import MASK, MIN_PIECE, Redactor, redact

PASSWORD = "kingfisher@harbour/lantern"


@pytest.fixture(autouse=True)
def _redactor_as_before() -> Iterator[None]:
    yield
    redact.forget()


@pytest.mark.parametrize(
    "told",
    [
        PASSWORD,
        quote(PASSWORD, safe=""),
        'could not translate host name "harbour" to address',
        "invalid port in lantern",
        repr(PASSWORD),
    ],
)
def test_a_secret_is_masked_in_every_form_that_a_library_quotes(told: str) -> None:
    redactor = Redactor()
    redactor.learn([PASSWORD])
    shown = redactor(told)
    assert MASK in shown
    assert not any(piece in shown for piece in ("kingfisher", "harbour", "lantern"))


@given(st.text(min_size=12), st.text(), st.text())
def test_a_long_secret_is_nowhere_in_what_is_shown(secret: str, before: str, after: str) -> None:
    redactor = Redactor()
    redactor.learn([secret])
    assert secret not in redactor(before + secret + after).replace(MASK, "\0") or secret in MASK


def test_a_secret_that_was_replaced_stays_masked() -> None:
    redactor = Redactor()
    redactor.learn(["kingfisher-of-the-harbour"])
    redactor.learn(["lantern-of-the-harbour"])
    assert redactor("kingfisher-of-the-harbour lantern-of-the-harbour") == f"{MASK} {MASK}"


def test_a_short_secret_is_masked_as_a_word_and_not_within_another_one() -> None:
    redactor = Redactor()
    redactor.learn(["video"])
    assert redactor("password 'video' of video_qualities") == f"password '{MASK}' of video_qualities"


def test_a_password_that_is_the_user_name_too_leaves_messages_readable() -> None:
    redactor = Redactor()
    redactor.learn(["postgres"], public=["postgres"])
    assert redactor('role "postgres" does not exist') == 'role "postgres" does not exist'


def test_pieces_too_short_to_tell_anything_are_left() -> None:
    redactor = Redactor()
    redactor.learn(["tin@kingfisher"])
    assert len("tin") < MIN_PIECE
    assert redactor("tin kingfisher") == f"tin {MASK}"


@pytest.mark.parametrize("name", sorted(SECRETS - {"DATABASE_URL"}))
def test_every_secret_setting_is_learned_even_if_another_setting_is_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "kingfisher-of-the-harbour")
    monkeypatch.setenv("COMPLETED_DIR", "not/absolute")
    with pytest.raises(SettingsError):
        load_settings()
    assert redact("signing with kingfisher-of-the-harbour") == f"signing with {MASK}"


def test_of_a_webhooks_url_passwords_and_tokens_are_masked_and_words_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMPLETED_DIR", str(tmp_path))
    monkeypatch.setenv(
        "WEBHOOK_URL", "https://robot:w%40der-hen@hooks.example/services/T0B4C8xyz?key=k3y-0f-it-all"
    )
    monkeypatch.setenv("HEARTBEAT_URL", "https://0b8e3f60-9d5c@ping.example/")
    load_settings()
    said = "services of hooks.example: w@der-hen T0B4C8xyz k3y-0f-it-all 0b8e3f60-9d5c robot"
    assert redact(said) == f"services of hooks.example: {MASK} {MASK} {MASK} {MASK} robot"


def test_the_password_of_the_database_url_is_masked_in_a_failures_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMPLETED_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", f"postgresql://someone:{PASSWORD}@db.example/videos")
    with pytest.raises(SettingsError):
        load_settings()
    reason = 'unknown host "harbour/lantern@db.example"'
    error = DatabaseError(ErrorKind.ENVIRONMENT, "connect", reason, "Correct DATABASE_URL.")
    assert "harbour" not in failure_of(error).sentence
    assert "db.example" in failure_of(error).sentence


def test_the_password_of_a_proxy_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{quote(PASSWORD, safe='')}@proxy.example:3128")
    monkeypatch.setenv("AWS_S3_BUCKET", "videos")
    with suppress(SettingsError):
        load_settings()
    assert redact(f"no route to user:{PASSWORD}@proxy.example") == f"no route to user:{MASK}@proxy.example"
