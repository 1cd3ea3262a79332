"""The parts of watchdog without a promise of stability that `watcher/detection` is built on, by name.

`inotify.py` subclasses watchdog's inotify reader and `polling.py` its polling emitter, both with private
attributes. pyproject.toml pins watchdog to the minor version that this contract was read from.
"""

from __future__ import annotations

import ast
import inspect
import threading
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from watchdog.observers import inotify_c
from watchdog.observers.api import BaseObserver, EventEmitter, EventQueue, ObservedWatch
from watchdog.observers.polling import PollingEmitter
from watchdog.utils import BaseThread
from watchdog.utils.dirsnapshot import DirectorySnapshot

from watcher.detection import inotify, polling

REPOSITORY = Path(__file__).parents[3]

CONSTANTS = {
    "IN_CREATE": 0x100,
    "IN_MOVED_TO": 0x80,
    "IN_CLOSE_WRITE": 0x8,
    "IN_ATTRIB": 0x4,
    "IN_ONLYDIR": 0x1000000,
    "IN_DONT_FOLLOW": 0x2000000,
    "IN_Q_OVERFLOW": 0x4000,
}
READER_ATTRIBUTES = {"_inotify_fd", "_lock", "_closed", "_is_reading"}
READER_METHODS = {"close", "handle_event", "read_events", "run", "start", "stop", "join", "is_alive"}
EVENT_ATTRIBUTES = {"wd", "mask", "name", "is_queue_overflow", "is_ignored", "is_directory"}
EMITTER_ATTRIBUTES = {"_snapshot", "_take_snapshot"}
EMITTER_METHODS = {"queue_events", "on_thread_start", "stop", "stopped_event", "watch", "is_alive"}
OBSERVER_METHODS = {"schedule", "emitters", "start", "stop", "join", "is_alive"}
SIGNATURES: list[tuple[Callable[..., object], list[str]]] = [
    (inotify_c.InotifyFD.__init__, ["self"]),
    (inotify_c.InotifyFD.handle_event, ["self", "event"]),
    (PollingEmitter.__init__, ["self", "event_queue", "watch", "timeout", "event_filter", "stat", "listdir"]),
    (PollingEmitter.queue_events, ["self", "timeout"]),
    (PollingEmitter.on_thread_start, ["self"]),
    (BaseObserver.__init__, ["self", "emitter_class", "timeout", "kwargs"]),
    (
        BaseObserver.schedule,
        ["self", "event_handler", "path", "recursive", "event_filter", "follow_symlink"],
    ),
    (DirectorySnapshot.__init__, ["self", "path", "recursive", "stat", "listdir"]),
]


def advice(name: str, module: ModuleType) -> str:
    return (
        f"watchdog {version('watchdog')} does not provide {name} as before, which {module.__name__} needs:"
        " adapt that module, run its tests, then update this contract and the pin in pyproject.toml."
    )


@pytest.fixture
def reader() -> Iterator[inotify_c.InotifyFD]:
    unstarted = inotify_c.InotifyFD()
    yield unstarted
    unstarted._is_reading = False
    unstarted.close()


@pytest.fixture
def emitter() -> PollingEmitter:
    return PollingEmitter(EventQueue(), ObservedWatch("/", recursive=False))


@pytest.mark.parametrize(("name", "value"), CONSTANTS.items())
def test_an_event_mask_has_the_kernels_value(name: str, value: int) -> None:
    assert getattr(inotify_c.InotifyConstants, name, None) == value, advice(name, inotify)


@pytest.mark.parametrize("name", ["WatchDescriptor", "inotify_add_watch", "inotify_rm_watch"])
def test_the_system_calls_are_there(name: str) -> None:
    assert callable(getattr(inotify_c, name, None)), advice(f"inotify_c.{name}", inotify)


@pytest.mark.parametrize("name", sorted(READER_ATTRIBUTES | READER_METHODS))
def test_the_inotify_reader_has(name: str, reader: inotify_c.InotifyFD) -> None:
    assert hasattr(reader, name), advice(f"InotifyFD.{name}", inotify)


def test_the_inotify_reader_handles_events_without_its_lock(reader: inotify_c.InotifyFD) -> None:
    assert isinstance(reader, BaseThread), advice("the base class of InotifyFD", inotify)
    assert isinstance(reader._lock, type(threading.Lock())), advice("InotifyFD._lock", inotify)
    assert isinstance(reader._inotify_fd, int), advice("InotifyFD._inotify_fd", inotify)
    was_locked: list[bool] = []
    event = inotify_c.InotifyEvent(inotify_c.WatchDescriptor(-1), inotify_c.Mask(0x4000), 0, b"")
    overridden = {"read_events": lambda: [event], "handle_event": lambda _: handled()}

    def handled() -> None:
        was_locked.append(reader._lock.locked())
        reader._stopped_event.set()

    vars(reader).update(overridden)
    reader.run()
    assert was_locked == [False], advice("InotifyFD.run, which calls handle_event", inotify)


@pytest.mark.parametrize("name", sorted(EVENT_ATTRIBUTES))
def test_an_inotify_event_has(name: str) -> None:
    event = inotify_c.InotifyEvent(inotify_c.WatchDescriptor(1), inotify_c.Mask(0x4000), 0, b"name")
    assert hasattr(event, name), advice(f"InotifyEvent.{name}", inotify)
    assert event.is_queue_overflow, advice("InotifyEvent.is_queue_overflow", inotify)


@pytest.mark.parametrize("name", sorted(EMITTER_ATTRIBUTES | EMITTER_METHODS))
def test_the_polling_emitter_has(name: str, emitter: PollingEmitter) -> None:
    assert hasattr(emitter, name), advice(f"PollingEmitter.{name}", polling)


def test_the_polling_emitter_compares_what_its_attributes_give(
    emitter: PollingEmitter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("watched")
    emitter._snapshot = DirectorySnapshot(str(directory))
    (directory / "new").touch()
    emitter._take_snapshot = lambda: DirectorySnapshot(str(directory))
    emitter.queue_events(0)
    sources = [emitter._event_queue.get_nowait()[0].src_path]
    assert sources == [str(directory / "new")], advice("PollingEmitter.queue_events", polling)


@pytest.mark.parametrize("name", sorted(OBSERVER_METHODS))
def test_the_observer_has(name: str) -> None:
    assert hasattr(BaseObserver(EventEmitter), name), advice(f"BaseObserver.{name}", polling)


@pytest.mark.parametrize(
    ("function", "parameters"), SIGNATURES, ids=lambda value: getattr(value, "__qualname__", "")
)
def test_a_signature_is_as_before(function: Callable[..., object], parameters: list[str]) -> None:
    module = polling if function.__qualname__.split(".")[0] != "InotifyFD" else inotify
    assert list(inspect.signature(function).parameters) == parameters, advice(function.__qualname__, module)


def test_the_contract_names_every_private_attribute_in_use(
    reader: inotify_c.InotifyFD, emitter: PollingEmitter
) -> None:
    assert _shared(inotify.Watches, reader) == READER_ATTRIBUTES
    assert _shared(polling._Emitter, emitter) == EMITTER_ATTRIBUTES
    assert _shared(polling.PollingObserver, BaseObserver(EventEmitter)) == set()


def _shared(subclass: type, base: object) -> set[str]:
    """The private attributes of a base class's instance that the code of a subclass uses."""
    used = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(subclass)))
        if isinstance(node, ast.Attribute)
    }
    return {
        name for name in used & {*vars(base), *dir(base)} if name.startswith("_") and not name.endswith("__")
    }


def test_watchdog_is_pinned_to_the_minor_version_of_this_contract() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert "watchdog>=7.1,<7.2" in project["dependencies"]
