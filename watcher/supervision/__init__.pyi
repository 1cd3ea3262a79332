from .background_thread import (
    BackgroundThread,
    FailureState,
    InternalError,
    Supervisor,
    Worker,
    stop_all,
)
from .backoff import Backoff
from .circuit_breaker import CircuitBreaker
from .isolation import Isolation, concerns_one
from .liveness import Liveness, Pulse
from .sd_notify import SystemdNotifier

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
