from .driver import driver_errors, import_peewee
from .pool import PostgresPool, open_pool

__all__ = ["PostgresPool", "driver_errors", "import_peewee", "open_pool"]
