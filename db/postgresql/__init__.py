"""PostgreSQL, whose driver is imported once a database of it is opened: see `db.postgresql.driver`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
