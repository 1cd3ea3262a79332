"""The daemon and its commands; the only package that imports `storage` and `db`."""
