"""Faults of HTTP servers, and faults that strike a request in a certain place."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from tests.faults.wire_faults import CutError, Fault, Strike, never
from tests.support.fault_proxy import Answer, s3_error


@dataclass(frozen=True)
class Throttled(Fault):
    """Each body comes through at no more than this rate."""

    bytes_per_second: float

    @property
    def name(self) -> str:
        return f"throttled to {self.bytes_per_second / 1e6:g} MB/s"

    async def on_body(self, data: bytes, *, is_middle: bool, strike: Strike) -> bytes:
        if is_middle:
            strike()
        await asyncio.sleep(len(data) / self.bytes_per_second)
        return data


@dataclass(frozen=True)
class CutInBody(Fault):
    """The server got half of what was announced."""

    @property
    def name(self) -> str:
        return "connection cut in the middle of a body"

    async def on_body(self, data: bytes, *, is_middle: bool, strike: Strike) -> bytes:
        if is_middle:
            strike()
            raise CutError
        return data


@dataclass(frozen=True)
class StalledInBody(Fault):
    """Forwards half of the body, then nothing, and keeps the connection open."""

    @property
    def name(self) -> str:
        return "stalled in the middle of a body"

    async def on_body(self, data: bytes, *, is_middle: bool, strike: Strike) -> bytes:
        if is_middle:
            strike()
            return await never()
        return data


@dataclass(frozen=True)
class BodyCorrupted(Fault):
    """The byte in the middle of the body is another one when it arrives."""

    @property
    def name(self) -> str:
        return "one byte of a body corrupted on its way"

    async def on_body(self, data: bytes, *, is_middle: bool, strike: Strike) -> bytes:
        if is_middle:
            strike()
            return bytes([data[0] ^ 0x01]) + data[1:]
        return data


@dataclass(frozen=True)
class Answered(Fault):
    """The request is answered with an error, as S3 writes it, and never gets to the server."""

    status: int
    code: str

    @property
    def name(self) -> str:
        return f"{self.status} {self.code}"

    async def on_request(self, strike: Strike) -> Answer | None:
        strike()
        return s3_error(self.status, self.code)


@dataclass(frozen=True)
class AnswerDropped(Fault):
    """The server has done what it was asked to, and its answer never arrives."""

    @property
    def name(self) -> str:
        return "answer dropped after the server did the work"

    async def on_answer(self, raw: bytes, strike: Strike) -> bytes:
        strike()
        raise CutError


@dataclass(frozen=True)
class AnswerCut(Fault):
    """The connection ends in the middle of the answer."""

    @property
    def name(self) -> str:
        return "connection cut in the middle of an answer"

    async def on_answer(self, raw: bytes, strike: Strike) -> bytes:
        strike()
        raise CutError(parting=raw[: len(raw) // 2])


@dataclass(frozen=True)
class AnswerCorrupted(Fault):
    """One bit of the answer is another one, each time elsewhere: in the head, or in the body."""

    @property
    def name(self) -> str:
        return "one byte of an answer corrupted"

    async def on_answer(self, raw: bytes, strike: Strike) -> bytes:
        dice = random.Random(strike())
        at = dice.randrange(len(raw))
        return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(7)]) + raw[at + 1 :]
