"""Requests about many objects: order, errors as answers, and when a command gives up."""

from __future__ import annotations

import pytest

from storage import ErrorKind, StorageError
from watcher.operations.requests_to_s3 import MAX_FAILURES, PAGE, Requests, pages


def failing(key: str) -> str:
    """Answer with the key; raise for one that names an error's code."""
    if key.startswith("error:"):
        raise StorageError(
            ErrorKind.TRANSIENT, "look up", key, key.removeprefix("error:"), "It is tried again."
        )
    return key


def test_each_item_has_its_answer_or_its_error_in_the_order_of_the_items() -> None:
    keys = [f"error:{number}" if number % 3 == 0 else str(number) for number in range(40)]
    with Requests("test") as requests:
        answers = list(requests.ask(failing, keys))
    assert [key for key, _ in answers] == keys
    assert [getattr(answer, "key", answer) for _, answer in answers] == keys


def test_consecutive_transient_failures_end_a_command_and_an_answer_begins_anew() -> None:
    error = StorageError(ErrorKind.TRANSIENT, "look up", "k", "timeout", "It is tried again.")
    with Requests("test") as requests:
        for _ in range(3):
            for _ in range(MAX_FAILURES - 1):
                requests.tolerate(error)
            assert dict(requests.ask(failing, ["k"])) == {"k": "k"}
        for _ in range(MAX_FAILURES - 1):
            requests.tolerate(error)
        with pytest.raises(StorageError) as ended:
            requests.tolerate(error)
    assert ended.value is error


def test_an_error_that_another_request_would_meet_ends_a_command_at_once() -> None:
    error = StorageError(ErrorKind.ENVIRONMENT, "look up", "k", "NoSuchBucket", "Create it.")
    with Requests("test") as requests, pytest.raises(StorageError):
        requests.tolerate(error)


def test_an_object_about_which_the_server_says_nothing_is_no_failure() -> None:
    error = StorageError(ErrorKind.ENVIRONMENT, "look up", "k", "object-unknown", "Allow it.")
    with Requests("test") as requests:
        for _ in range(2 * MAX_FAILURES):
            requests.tolerate(error)


@pytest.mark.parametrize("number", [0, 1, PAGE, PAGE + 1, 3 * PAGE])
def test_pages_have_every_item_once_and_a_bounded_length(number: int) -> None:
    found = list(pages(range(number)))
    assert [item for page in found for item in page] == list(range(number))
    assert all(0 < len(page) <= PAGE for page in found)
