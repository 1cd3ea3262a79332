"""Supervision of threads: start, restart and stop, liveness, circuit breakers, backoff, sd_notify."""
