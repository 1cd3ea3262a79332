"""Tests of `db`, on SQLite and on a real PostgreSQL."""
