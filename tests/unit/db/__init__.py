"""Tests of `db`, each of them on SQLite and on a real PostgreSQL."""
