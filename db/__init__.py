"""The ledger (what was done with each file and is due) and the catalog (the URLs that players are given).

Independent of S3 and of `watcher`.
"""

import lazy_loader

from db.postgresql.driver import import_peewee

# Before any other module of this package imports it.
import_peewee()
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
