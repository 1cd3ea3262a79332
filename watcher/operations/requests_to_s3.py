"""How `audit` and `ledger rebuild` ask S3 about many objects: in pages, several at once, and not forever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Self, TypeVar

from storage import ErrorKind, StorageError
from watcher.errors import Code

CONCURRENT_REQUESTS = 8
PAGE = 500
"""How many objects or rows are compared with the ledger at once."""
MAX_FAILURES = 20
"""Consecutive transient failures of requests after which a command ends with the error."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Requests:
    """The requests of a command, in a `with` block; `name` is that of the threads."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(CONCURRENT_REQUESTS, thread_name_prefix=name)
        self._failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def ask(
        self, request: Callable[[_Item], _Answer], items: Sequence[_Item]
    ) -> Iterator[tuple[_Item, _Answer | StorageError]]:
        """Yield each item with the answer to its request, or with the error that the request raised."""

        def answer_to(item: _Item) -> _Answer | StorageError:
            try:
                return request(item)
            except StorageError as exc:
                return exc

        for item, answer in zip(items, self._pool.map(answer_to, items), strict=True):
            if not isinstance(answer, StorageError):
                self._failures = 0
            yield item, answer

    def tolerate(self, error: StorageError) -> None:
        """Count a failed request; raises `error` if another one would not help, or after `MAX_FAILURES`."""
        if error.code == Code.OBJECT_UNKNOWN:
            return
        self._failures += 1
        if error.kind is not ErrorKind.TRANSIENT or self._failures >= MAX_FAILURES:
            raise error


def pages(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Yield the items in lists of at most `PAGE`."""
    remaining = iter(items)
    while page := list(islice(remaining, PAGE)):
        yield page
