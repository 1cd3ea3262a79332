from .catalog_thread import CatalogThread
from .compressor_catalog import CompressorCatalog
from .gate import CatalogGate
from .ignored_files import IgnoredFiles
from .missing_files import MissingFiles
from .orphans import Orphan, Orphans, RowsLostError
from .republisher import Republisher

__all__ = [
    "CatalogGate",
    "CatalogThread",
    "CompressorCatalog",
    "IgnoredFiles",
    "MissingFiles",
    "Orphan",
    "Orphans",
    "Republisher",
    "RowsLostError",
]
