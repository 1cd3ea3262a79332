"""Benchmarks that print a table and fail if a documented limit is exceeded."""
