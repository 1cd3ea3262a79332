"""Supervision of threads: start, restart and stop, liveness, circuit breakers, backoff, sd_notify."""

from watcher.supervision.background_thread import (
    BackgroundThread,
    FailureState,
    InternalError,
    Supervisor,
    Worker,
    stop_all,
)
from watcher.supervision.backoff import Backoff
from watcher.supervision.circuit_breaker import CircuitBreaker
from watcher.supervision.isolation import Isolation, concerns_one
from watcher.supervision.liveness import Liveness, Pulse
from watcher.supervision.sd_notify import SystemdNotifier

__all__ = [
    "BackgroundThread",
    "Backoff",
    "CircuitBreaker",
    "FailureState",
    "InternalError",
    "Isolation",
    "Liveness",
    "Pulse",
    "Supervisor",
    "SystemdNotifier",
    "Worker",
    "concerns_one",
    "stop_all",
]
