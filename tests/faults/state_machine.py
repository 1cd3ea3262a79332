"""The rules by which an example goes on, and what must be true after every step and at its end.

Rules named `before_…` and `while_…` act right before or in the middle of a certain step, which chance alone
would hardly ever hit.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from db import State
from tests.faults.invariants import NAMES
from tests.faults.simulated_daemon import SimulatedDaemon
from watcher.failpoints import Point

NAME = st.sampled_from(NAMES)
REACHED = st.sampled_from([point for point in Point if not point.value.startswith("multipart")])
"""Steps that small files get to; the others have kill tests of their own."""
STAGES = (State.PENDING, State.VERIFIED, State.PUBLISHED)
STAGE = st.sampled_from(STAGES)
PROVEN = frozenset({State.VERIFIED, State.PUBLISHED, State.RELEASED})
MOST_ROUNDS = 12

START = st.sampled_from(["encode", "encode", "encode_badly", "second_row", "nothing"])
"""What is under way when something happens at a turn: most often a good file."""
ACCIDENTS: dict[State, tuple[str, ...]] = {
    State.PENDING: (
        "disown",
        "disown",
        "begin",
        "encode",
        "encode_badly",
        "zero",
        "remove",
        "move_away",
        "delete_row",
    ),
    State.VERIFIED: ("begin", "encode", "encode_badly", "zero", "remove", "delete_row", "delete_object"),
    State.PUBLISHED: ("begin", "encode", "zero", "truncate", "delete_object", "delete_object", "point_back"),
}
"""What matters most right before a stage works."""
SURPRISES: dict[Point, tuple[str, ...]] = {
    Point.ENQUEUED: ("encode", "encode_badly", "remove"),
    Point.HASHED: ("encode", "encode_badly", "remove", "zero", "delete_object"),
    Point.COMPLETED: ("encode", "encode_badly", "remove", "delete_object"),
    Point.CONFIRMED: ("encode", "begin", "delete_object"),
    Point.PUBLISHED: ("encode", "begin", "point_back", "delete_object"),
    Point.QUARANTINE_LINKED: ("knock", "begin", "remove"),
}
"""What happens in the middle of a stage, where neither a lease nor a transaction prevents it."""
WHILE_ASIDE = ("encode", "begin", "write_aside", "write_aside")
SURPRISE = st.sampled_from([(point, what) for point, several in SURPRISES.items() for what in several])

JUMPS = st.sampled_from([timedelta(minutes=7), timedelta(days=1)])
LONG_AGO, FAR_AHEAD = 86_400, 4_000_000_000


class AnyOrder(RuleBasedStateMachine):
    """Everything that can happen, in any order. `begin` starts a daemon; the test sets it."""

    begin: Callable[[], SimulatedDaemon]
    daemon: SimulatedDaemon

    @initialize()
    def start_daemon(self) -> None:
        self.daemon = type(self).begin()

    # The compressor and people

    @rule(name=NAME, what=st.sampled_from(["begin", "write", "write", "half", "conclude", "fail"]))
    def encode_goes_on(self, name: str, what: str) -> None:
        is_under_way = self.daemon.processing(name) is not None
        if what == "half" and is_under_way:
            self.daemon.write(name, complete=False)
        elif what != "half" and is_under_way == (what != "begin"):
            getattr(self.daemon, what)(name)

    @rule(name=NAME, complete=st.sampled_from([None, True, False]))
    def encode_in_one_go(self, name: str, complete: bool | None) -> None:
        if complete is None:
            self.daemon.encode(name)
        else:
            self.daemon.encode_badly(name, complete=complete)

    @rule(name=NAME, what=st.sampled_from(["truncate", "zero", "remove", "move_away", "move_back"]))
    def somebody_meddles_with_files(self, name: str, what: str) -> None:
        getattr(self.daemon, what)(name)

    @rule(
        name=NAME,
        what=st.sampled_from(["second_row", "delete_row", "point_back", "delete_object", "disown"]),
    )
    def somebody_meddles_with_rows_and_objects(self, name: str, what: str) -> None:
        getattr(self.daemon, what)(name)

    # Servers and clocks

    @rule(status=st.sampled_from([None, 503, 403]), requests=st.integers(1, 8))
    def s3_breaks(self, status: int | None, requests: int) -> None:
        if status is None:
            self.daemon.lose_answers(requests)
        else:
            self.daemon.break_s3(status, requests)

    @rule()
    def the_database_comes_or_goes(self) -> None:
        if self.daemon.database.is_away:
            self.daemon.database.come_back()
        else:
            self.daemon.database.go_away()

    @rule(by=JUMPS, forward=st.booleans(), state=STAGE)
    def the_clock_jumps(self, by: timedelta, forward: bool, state: State) -> None:
        """And whatever is due then, or not any more, is worked on by that clock alone."""
        self.daemon.jump(by if forward else -by)
        self.daemon.step(state)

    @rule(name=NAME, at=st.sampled_from([LONG_AGO, FAR_AHEAD]))
    def a_file_is_of_another_time(self, name: str, at: int) -> None:
        self.daemon.touch(name, at)

    # The daemon

    @rule(point=REACHED, crash=st.booleans())
    def an_end_is_coming(self, point: Point, crash: bool) -> None:
        """Of the daemon, or of its database."""
        self.daemon.surprises[point] = self.daemon.crash if crash else self.daemon.database.go_away

    @rule(name=NAME, surprise=SURPRISE)
    def a_surprise_is_coming(self, name: str, surprise: tuple[Point, str]) -> None:
        point, what = surprise
        self.daemon.surprises[point] = lambda: getattr(self.daemon, what)(name)

    @rule()
    def restart(self) -> None:
        self.daemon.restart()

    @rule(name=NAME)
    def an_event_comes(self, name: str) -> None:
        self.daemon.settle(name)

    @rule(all_of_it=st.booleans())
    def the_catalog_is_minded(self, all_of_it: bool) -> None:
        if all_of_it:
            self.daemon.ask()
        self.daemon.watch()

    @rule(state=STAGE)
    def a_stage_works(self, state: State) -> None:
        self.daemon.step_at_once(state)

    @rule(last=STAGE)
    def the_daemon_works(self, last: State) -> None:
        """As far as a stage, and most often to the end."""
        self._work(STAGES[: STAGES.index(last) + 1])

    @rule(name=NAME, start=START, what=st.sampled_from(ACCIDENTS[State.PENDING]))
    def before_it_is_sent(self, name: str, start: str, what: str) -> None:
        self._at_a_turn(name, start, what, State.PENDING)

    @rule(name=NAME, start=START, what=st.sampled_from(ACCIDENTS[State.VERIFIED]))
    def before_it_is_published(self, name: str, start: str, what: str) -> None:
        self._at_a_turn(name, start, what, State.VERIFIED)

    @rule(name=NAME, start=START, what=st.sampled_from(ACCIDENTS[State.PUBLISHED]))
    def before_it_is_released(self, name: str, start: str, what: str) -> None:
        self._at_a_turn(name, start, what, State.PUBLISHED)

    @rule(name=NAME, start=START, surprise=SURPRISE)
    def while_it_is_sent_or_published(self, name: str, start: str, surprise: tuple[Point, str]) -> None:
        self._in_the_middle(name, start, *surprise)

    @rule(name=NAME, what=st.sampled_from(WHILE_ASIDE))
    def while_it_is_aside(self, name: str, what: str) -> None:
        self._in_the_middle(name, "encode", Point.QUARANTINED, what)

    @invariant()
    def nothing_is_lost_and_nothing_bad_is_shown(self) -> None:
        """Only ready rows are public, only what was ready is in S3, and what is ready is somewhere."""
        daemon: SimulatedDaemon | None = getattr(self, "daemon", None)
        if daemon is None:
            return
        for row in daemon.known:
            assert row.status == "ready" or not daemon.is_public(row), f"{row} is public"
        for name, content in daemon.objects().items():
            assert content is None or content in daemon.called_ready[name], f"{name}: a bad object"
            daemon.excuse_replaced(name)
            newest = daemon.newest(name)
            if newest is None or newest.content is None or newest.content in daemon.excused:
                continue
            places = (content, daemon.on_disk(name), daemon.away.get(name), daemon.aside(name))
            assert newest.content in places, f"{name}: the content of row {newest.id} is lost"

    def teardown(self) -> None:
        daemon: SimulatedDaemon | None = getattr(self, "daemon", None)
        if daemon is None:
            return
        try:
            self._come_to_rest()
        finally:
            daemon.close()
            daemon.database.come_back()

    def _come_to_rest(self) -> None:
        """All is mended, the encodes end, and the daemon has all the time it needs, but no new daemon.

        Even if the clock was set back by a day at this moment.
        """
        daemon = self.daemon
        self._all_works()
        daemon.jump(-timedelta(days=1))
        for name in NAMES:
            daemon.move_back(name)
            daemon.conclude(name)
        wanted = {name: daemon.on_disk(name) for name in NAMES}
        before: object = None
        for _ in range(MOST_ROUNDS):
            daemon.wait()
            self._work(point=daemon.step)
            daemon.watch()
            uploads = daemon.running().app.ledger.uploads()
            if before == (before := [(upload.id, upload.state, upload.awaits_row) for upload in uploads]):
                break
        for name in NAMES:
            newest = daemon.newest(name)
            if newest is None or newest.status != "ready" or newest.content is None:
                continue
            current = daemon.running().app.ledger.current(daemon.path(name))
            is_proven = current is not None and current.state in PROVEN
            if newest.content == wanted[name] or (is_proven and newest.content == daemon.stored(name)):
                self._ensure_finished(name, newest.content)

    def _ensure_finished(self, name: str, content: bytes) -> None:
        daemon = self.daemon
        story: Any = [
            (upload.state, upload.error_code, upload.last_error)
            for upload in daemon.running().app.ledger.uploads(path=daemon.path(name))
        ]
        assert daemon.stored(name) == content, story
        for row in daemon.known:
            if row.name == name and row.status == "ready":
                assert daemon.is_public(row), (row.id, story)
        assert daemon.aside(name) is None
        assert daemon.on_disk(name) != content, story

    def _at_a_turn(self, name: str, start: str, what: str, state: State) -> None:
        """A file gets as far as a stage; then something happens, and then the stage works."""
        self._begin(name, start)
        self._work(STAGES[: STAGES.index(state)])
        getattr(self.daemon, what)(name)
        self.daemon.step_at_once(state)

    def _in_the_middle(self, name: str, start: str, point: Point, what: str) -> None:
        """A file goes its whole way, and something happens when it gets to a step of it."""
        self._begin(name, start)
        self.daemon.surprises[point] = lambda: getattr(self.daemon, what)(name)
        self._work()

    def _begin(self, name: str, start: str) -> None:
        self._all_works()
        if start != "nothing":
            getattr(self.daemon, start)(name)

    def _all_works(self) -> None:
        """Whatever is broken is mended, and there is a daemon."""
        self.daemon.surprises.clear()
        self.daemon.mend_s3()
        self.daemon.database.come_back()
        self.daemon.running()

    def _work(self, stages: tuple[State, ...] = STAGES, point: Callable[[State], None] | None = None) -> None:
        self.daemon.scan()
        self.daemon.ask()
        for state in stages:
            (point or self.daemon.step_at_once)(state)
