"""Supervision of threads: start, restart and stop, liveness, circuit breakers, backoff, sd_notify."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
