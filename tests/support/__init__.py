"""Helpers and fixtures of the tests: real servers, files and processes, and faults."""
