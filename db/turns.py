"""The order of the uploads that are due: which of them has its turn."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from db.ledger_reader import LedgerReader
from db.models import QUALITIES, SMALL_BYTES
from db.records import Turn, Upload
from db.states import State


class LedgerTurns(LedgerReader):
    """Decides the turn of a new upload, and reads what is due in turn, for `Ledger.claim`."""

    _is_turn_of_old = False
    """Whether what has waited for long comes first where only one upload is claimed."""

    def _claimable(
        self,
        limit: int,
        small_only: bool,
        turn: Turn | None = None,
        *,
        now: datetime,
        lease: timedelta,
        other_than: Collection[int] | None,
        **due: Any,
    ) -> list[Upload]:
        result = self._select_claimable.run(
            limit,
            small_only,
            turn,
            **due,
            other_than=None if other_than is None else list(other_than),
            **dict(zip(("now", "far", "own_far"), self._limits_of_claims(now, lease), strict=True)),
        )
        return list(self.records(result.rows))

    def _in_turn(
        self, oldest: list[Upload], limit: int, small_only: bool, playable_for: timedelta | None, **how: Any
    ) -> list[Upload]:
        """Of what is due those whose turn it is; `oldest` are the first `limit` of all by their due times."""
        if len(oldest) < limit:
            return sorted(oldest, key=lambda upload: upload.turn)
        due = {"until": how["now"], "after": None}
        chosen = {row.id: row for row in self._claimable(limit, small_only, Turn.BY_HAND, **due, **how)}
        if playable_for is not None:
            self._is_turn_of_old = not self._is_turn_of_old
            late = [upload for upload in oldest if upload.due_at <= how["now"] - playable_for]
            chosen |= {upload.id: upload for upload in late[: (limit + self._is_turn_of_old) // 2]}
            for turn in (Turn.FIRST_SMALL, Turn.FIRST)[: 1 if small_only else 2]:
                if len(chosen) < limit:
                    firsts = self._claimable(limit, small_only, turn, **due, **how)
                    chosen |= {row.id: row for row in firsts}
        chosen |= {row.id: row for row in oldest if row.id not in chosen}
        return list(chosen.values())[:limit]

    def _turn_of(self, video_id: str, quality: str, size: int) -> Turn:
        """The turn of a new upload; a larger quality of the video that was to be the first one is later."""
        later = []
        for has_receipts, number, other, state, turn in self._others_of_video.run(video_id=video_id).rows:
            if has_receipts:
                return Turn.LATER
            if number is None:
                break
            if state != State.PENDING or place_of(other) <= place_of(quality):
                return Turn.LATER
            if turn in {Turn.FIRST_SMALL, Turn.FIRST}:
                later.append(number)
        if later:
            uploads = self._uploads
            is_waiting = uploads.id.in_(later) & (uploads.state == State.PENDING)
            uploads.update(turn=Turn.LATER.value).where(self._unlocked(is_waiting)).execute()
        return Turn.FIRST_SMALL if size <= SMALL_BYTES else Turn.FIRST


def place_of(quality: str) -> int:
    """The place of a quality in their order by size; other names come before `original`, the largest."""
    return QUALITIES.index(quality) if quality in QUALITIES else len(QUALITIES) - 2
