"""The rules by which a life goes on, and what must be true after every step of it and at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from db import State
from tests.faults.life import NAMES, Life
from watcher.steps import Step

NAME = st.sampled_from(NAMES)
REACHED = st.sampled_from([step for step in Step if not step.value.startswith("multipart")])
"""Steps that small files get to; the others have kill tests of their own."""
STAGES = (State.PENDING, State.VERIFIED, State.PUBLISHED)
PROVEN = frozenset({State.VERIFIED, State.PUBLISHED, State.RELEASED})
MOST_ROUNDS = 12


class AnyOrder(RuleBasedStateMachine):
    """Everything that can happen, in any order. `begin` makes a new life; it is set by who runs this."""

    begin: Callable[[], Life]
    life: Life

    @initialize()
    def be_born(self) -> None:
        self.life = type(self).begin()

    @rule(name=NAME)
    def encode_begins(self, name: str) -> None:
        if self.life.processing(name) is None:
            self.life.begin(name)

    @rule(name=NAME, complete=st.booleans())
    def encode_writes(self, name: str, complete: bool) -> None:
        if self.life.processing(name) is not None:
            self.life.write(name, complete=complete)

    @rule(name=NAME)
    def encode_ends(self, name: str) -> None:
        self.life.conclude(name)

    @rule(name=NAME)
    def encode_in_one_go(self, name: str) -> None:
        if self.life.processing(name) is None:
            self.life.begin(name)
        self.life.write(name, complete=True)
        self.life.conclude(name)

    @rule(name=NAME)
    def encode_fails(self, name: str) -> None:
        self.life.fail(name)

    @rule(name=NAME, complete=st.booleans(), status=st.sampled_from(["failed", "processing"]))
    def encode_goes_wrong(self, name: str, complete: bool, status: str) -> None:
        if self.life.processing(name) is None:
            self.life.begin(name)
        self.life.write(name, complete=complete)
        if status == "failed":
            self.life.fail(name)

    @rule(name=NAME)
    def second_row(self, name: str) -> None:
        self.life.second_row(name)

    @rule(name=NAME, what=st.sampled_from(["truncate", "remove", "move_away", "move_back"]))
    def somebody_meddles_with_files(self, name: str, what: str) -> None:
        getattr(self.life, what)(name)

    @rule(name=NAME, what=st.sampled_from(["delete_row", "point_back", "delete_object"]))
    def somebody_meddles_with_rows_and_objects(self, name: str, what: str) -> None:
        getattr(self.life, what)(name)

    @rule(status=st.sampled_from([503, 403]))
    def s3_breaks(self, status: int) -> None:
        self.life.break_s3(status)

    @rule()
    def s3_loses_answers(self) -> None:
        self.life.lose_answers()

    @rule()
    def s3_is_mended(self) -> None:
        self.life.mend_s3()

    @rule(step=REACHED)
    def a_crash_is_coming(self, step: Step) -> None:
        self.life.crash_at(step)

    @rule()
    def restart(self) -> None:
        self.life.restart()

    @rule(name=NAME)
    def an_event_comes(self, name: str) -> None:
        self.life.settle(name)

    @rule()
    def a_scan_comes(self) -> None:
        self.life.scan()

    @rule()
    def the_gate_is_asked(self) -> None:
        self.life.ask()

    @rule(state=st.sampled_from(STAGES))
    def a_stage_works(self, state: State) -> None:
        self.life.step(state)

    @rule(last=st.sampled_from(STAGES))
    def the_daemon_works(self, last: State) -> None:
        """As far as a stage, and most often to the end."""
        self._work(STAGES[: STAGES.index(last) + 1])

    @rule(
        name=NAME, then=st.sampled_from(["delete_object", "truncate", "remove", "point_back", "delete_row"])
    )
    def something_happens_to_what_was_published(self, name: str, then: str) -> None:
        """Right before the copy would be released, which is when it matters most."""
        self._work(STAGES[:2])
        getattr(self.life, then)(name)
        self.life.step(State.PUBLISHED)

    @rule()
    def the_rows_are_watched(self) -> None:
        self.life.watch()

    @invariant()
    def nothing_is_lost_and_nothing_bad_is_shown(self) -> None:
        """Only ready rows are public, only what was ready is in S3, and what is ready is somewhere."""
        life: Life | None = getattr(self, "life", None)
        if life is None:
            return
        for row in life.known:
            assert row.status == "ready" or not life.is_public(row), f"{row} is public"
        for name, content in life.objects().items():
            assert content is None or content in life.called_ready[name], f"{name}: a bad object"
            newest = life.newest(name)
            if newest is None or newest.content is None or newest.content in life.excused:
                continue
            places = (content, life.on_disk(name), life.away.get(name), life.aside(name))
            assert newest.content in places, f"{name}: the content of row {newest.id} is lost"

    def teardown(self) -> None:
        life: Life | None = getattr(self, "life", None)
        if life is None:
            return
        try:
            self._come_to_rest()
        finally:
            life.close()

    def _come_to_rest(self) -> None:
        """All is mended, the encodes end, and the daemon has all the time it needs."""
        life = self.life
        life.mend_s3()
        life.restart()
        for name in NAMES:
            life.move_back(name)
            life.conclude(name)
        wanted = {name: life.on_disk(name) for name in NAMES}
        before: object = None
        for _ in range(MOST_ROUNDS):
            self._work()
            life.watch()
            uploads = life.shop.house.ledger.uploads()
            if before == (before := [(upload.id, upload.state, upload.awaits_row) for upload in uploads]):
                break
        for name in NAMES:
            newest = life.newest(name)
            if newest is None or newest.status != "ready" or newest.content is None:
                continue
            current = life.shop.house.ledger.current(life.path(name))
            is_proven = current is not None and current.state in PROVEN
            if newest.content == wanted[name] or (is_proven and newest.content == life.stored(name)):
                self._ensure_finished(name, newest.content)

    def _ensure_finished(self, name: str, content: bytes) -> None:
        life = self.life
        story: Any = [
            (upload.state, upload.error_code, upload.last_error)
            for upload in life.shop.house.ledger.uploads(path=life.path(name))
        ]
        assert life.stored(name) == content, story
        for row in life.known:
            if row.name == name and row.status == "ready":
                assert life.is_public(row), (row.id, story)
        assert life.aside(name) is None
        assert life.on_disk(name) != content, story

    def _work(self, stages: tuple[State, ...] = STAGES) -> None:
        self.life.scan()
        self.life.ask()
        for state in stages:
            self.life.step(state)
