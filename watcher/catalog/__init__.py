"""The compressor's catalog: admits uploads by its rows and publishes URLs into them."""

from watcher.catalog.catalog_thread import CatalogThread
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.catalog.gate import CatalogGate
from watcher.catalog.ignored_files import IgnoredFiles
from watcher.catalog.orphans import Orphan, Orphans, RowsLostError
from watcher.catalog.republisher import Republisher

__all__ = [
    "CatalogGate",
    "CatalogThread",
    "CompressorCatalog",
    "IgnoredFiles",
    "Orphan",
    "Orphans",
    "Republisher",
    "RowsLostError",
]
