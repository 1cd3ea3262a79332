"""Sees files, decides, drives. The only package that knows `storage` and `db`."""
