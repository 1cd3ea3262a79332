"""Keeps threads running: starting and stopping, liveness, circuit breakers, backoff, sd_notify."""
