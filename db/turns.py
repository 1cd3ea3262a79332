"""The order of the uploads that are due: which of them has its turn."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from peewee import Case

from db.ledger_reader import LedgerReader
from db.models import QUALITIES, SMALL_BYTES
from db.records import Turn, Upload
from db.states import STOPPED_STATES, State


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

    def _turn_after(self, upload: Upload, to: State) -> Turn:
        """The turn of an upload in its next state; one that stops leaves its turn to the next quality."""
        if to in STOPPED_STATES and upload.turn != Turn.LATER:
            self.renew_turn(upload.video_id, without=upload)
        if to is not State.PENDING:
            return Turn.LATER
        if upload.state in STOPPED_STATES:
            return self._turn_of(upload.video_id, upload.quality, upload.size)
        return Turn(upload.turn)

    def renew_turn(self, video_id: str, *, without: Upload | None = None) -> None:
        """Have the smallest quality of a video be the first that waits, if nothing of it is uploaded yet.

        For when the one that was first has stopped, is held or forgotten, or waits again. What is held has no
        turn. Within a transaction.
        """
        uploads, holds = self._uploads, self.database.tables.holds
        rows = self._others_of_video.run(video_id=video_id).rows
        left_out = {None, without.id if without else None}
        found = [row[1:] for row in rows if row[1] not in left_out]
        if rows[0][0] or any(state != State.PENDING for _, _, state, _ in found):
            return
        of_path: Any = (holds.instance == uploads.instance) & (holds.path == uploads.path)
        held: Any = uploads.select(uploads.id).join(holds, on=of_path)
        kept = set(held.where(uploads.id.in_([number for number, *_ in found])).scalars())
        waiting = [row for row in found if row[3] != Turn.BY_HAND and row[0] not in kept]
        first = min(waiting, key=lambda row: (place_of(row[1]), row[0]), default=(None,))[0]
        later = [row[0] for row in found if row[0] != first and row[3] in {Turn.FIRST_SMALL, Turn.FIRST}]
        first_turn = Case(None, [(uploads.size <= SMALL_BYTES, Turn.FIRST_SMALL.value)], Turn.FIRST.value)
        for numbers, turn in ((later, Turn.LATER.value), ([first], first_turn)):
            is_waiting = uploads.id.in_(numbers) & (uploads.state == State.PENDING)
            uploads.update(turn=turn).where(self._unlocked(is_waiting)).execute()


def place_of(quality: str) -> int:
    """The place of a quality in their order by size; other names come before `original`, the largest."""
    return QUALITIES.index(quality) if quality in QUALITIES else len(QUALITIES) - 2
