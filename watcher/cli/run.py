"""`video-uploader run`: runs the daemon in the foreground, a single pass, or only plans one."""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Annotated

import structlog
import typer

from db import migrate
from watcher import http, telemetry
from watcher.app import (
    Application,
    Daemon,
    SinglePass,
    SoleInstance,
    StartStoppedError,
    Startup,
    open_application,
)
from watcher.app.factories import make_storage_config
from watcher.app.known_dialect import keep_dialect
from watcher.app.memory import limit_heaps
from watcher.app.settings_record import record_settings
from watcher.app.status_report import DaemonStatus
from watcher.cli.database import require_up_to_date
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from watcher.cli.ledger_access import daemon_lock, env_files_of
from watcher.cli.output import echo, echo_error
from watcher.filesystem import instance_lock, leases
from watcher.operations import open_planner
from watcher.settings import Settings, doubtful_settings, exposed_secrets, load_settings, unused_settings
from watcher.supervision.sd_notify import SystemdNotifier
from watcher.telemetry import configure_logging

log = structlog.get_logger()

MAX_LINES = 20


def run(
    context: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", help="Process the files that exist now, then exit.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --once: print what would be done and why, and do nothing.")
    ] = False,
) -> None:
    """Watch the directory and upload finished files until stopped."""
    if dry_run and not once:
        raise CommandError("--dry-run requires --once.", EXIT_USAGE)
    env_files = env_files_of(context)
    settings = load_settings(*env_files)
    configure_logging(settings.log_level, settings.log_format)
    _warn_of_settings(settings, env_files)
    leases.ignore_sigio()
    limit_heaps()
    if dry_run:
        _print_plan(settings)
        return
    with _caught_signals() as signals, ExitStack() as stack:
        wait = partial(_wait, signals)
        if once:
            _lock(settings, stack)
            _run_once(_open(settings, wait, stack)[0], signals)
            return
        notifier = SystemdNotifier.from_environment()

        def make_daemon(entered: ExitStack) -> tuple[Application, Daemon]:
            app, sole_instance = _open(settings, wait, entered)
            daemon = Daemon(
                app,
                sole_instance=sole_instance,
                notifier=notifier,
                signals=signals,
                reload_settings=partial(load_settings, *env_files),
                record_settings=partial(record_settings, daemon_lock(settings)),
            )
            daemon.prepare()
            return app, daemon

        startup = Startup(notifier, wait, CommandError)
        try:
            startup.repeat(partial(_lock, settings), stack)
            app, daemon = startup.repeat(make_daemon, stack)
        except StartStoppedError:
            notifier.stopping("Stopping: it had not started")
            log.info("stop_requested", signal=signals.get())
            return
        with _serving(app, daemon.status):
            stopped_in_time = daemon.run()
        exit_code = EXIT_OK if app.supervisor.reason_to_stop is None else EXIT_FAILED
        if not stopped_in_time:
            _exit_now(exit_code)
        if exit_code != EXIT_OK:
            raise typer.Exit(exit_code)


def _lock(settings: Settings, holder: ExitStack) -> None:
    """Keep other daemons of the instance away until the end of `holder`."""
    holder.enter_context(instance_lock.held(daemon_lock(settings)))


def _open(
    settings: Settings, wait: Callable[[float], bool], holder: ExitStack
) -> tuple[Application, SoleInstance]:
    """Lock the directory and open the application, as its only daemon, until the end of `holder`."""
    if not settings.database_auto_migrate:
        require_up_to_date(settings)
    directory_lock = holder.enter_context(
        instance_lock.directory_held(settings.completed_dir, is_shared=settings.shared_directory)
    )
    app = holder.enter_context(open_application(settings))
    app.tree.lock_root = directory_lock.acquire
    if settings.database_auto_migrate:
        migrate(app.context.database)
    keep_dialect(app.context.database, make_storage_config(settings), app.context.store)
    holder.enter_context(app.context.database.session())
    if sys.stderr.isatty():
        # What draws it takes memory.
        holder.enter_context(telemetry.show_progress(app.context.transfer_progress))
    record = f"{daemon_lock(settings).removesuffix('.lock')}.heartbeat"
    sole_instance = SoleInstance(app.ledger, app.context.metrics, record=record)
    sole_instance.require(wait)
    sole_instance.warn_of_older_ledger()
    return app, sole_instance


def _warn_of_settings(settings: Settings, env_files: Sequence[str]) -> None:
    for env_file in env_files:
        if exposed := exposed_secrets(settings, env_file):
            log.warning(
                "secrets_exposed",
                file=env_file,
                names=", ".join(exposed),
                hint=f"Every user of this machine can read them: chmod o-r {env_file}",
            )
    for unused in unused_settings(settings):
        log.warning("setting_unused", name=unused.name, reason=unused.reason)
    for doubt in doubtful_settings(*env_files):
        log.warning("setting_doubtful", name=doubt.name, place=doubt.place, reason=doubt.reason)


@contextmanager
def _serving(app: Application, status: DaemonStatus) -> Iterator[None]:
    """Serve the status over HTTP during a `with` block, if `HTTP_ADDRESS` is set."""
    address, hosts = app.settings.served_address, app.settings.http_hosts
    if not address:
        yield
        return
    site = http.Site(http.Source(app, status))
    with http.HttpServer(http.make_application(site, address, hosts or ()), address, close=site.live.close):
        yield


def _run_once(app: Application, signals: queue.SimpleQueue[int]) -> None:
    single_pass = SinglePass(app, signals=signals)
    problems = single_pass.run()
    for line in problems[:MAX_LINES]:
        echo_error(f"video-uploader: {line}")
    if len(problems) > MAX_LINES:
        echo_error(f"video-uploader: … and {len(problems) - MAX_LINES} more; see `video-uploader status`.")
    if not single_pass.stopped_in_time:
        _exit_now(EXIT_FAILED)
    if problems:
        raise typer.Exit(EXIT_FAILED)


def _wait(signals: queue.SimpleQueue[int], seconds: float) -> bool:
    """Wait for a signal that stops the program, which stays in the queue; return whether it came."""
    try:
        number = signals.get(timeout=seconds)
    except queue.Empty:
        return False
    if number != signal.SIGHUP:
        signals.put(number)
    return number != signal.SIGHUP


def _exit_now(exit_code: int) -> None:
    """End the process without closing what a stuck thread still uses. Uploads resume later."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _print_plan(settings: Settings) -> None:
    tally: Counter[str] = Counter()
    with open_planner(settings) as planner:
        for plan in planner.plans():
            tally[plan.action] += 1
            echo(f"{plan.action:8}{plan.path}: {plan.reason}")
    counted = ", ".join(f"{number} to {action}" for action, number in sorted(tally.items()))
    echo(f"Nothing was done. {counted or 'There is no file.'}")


@contextmanager
def _caught_signals() -> Iterator[queue.SimpleQueue[int]]:
    """Put SIGTERM, SIGINT and SIGHUP into a queue, instead of ending the process, during a `with` block."""
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda caught, _frame: signals.put(caught)) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
