from .catalog.compressor_table import MAX_ZONE_DIFFERENCE, CompressorTable
from .catalog.own_catalog import Catalog, NoCatalog, OwnCatalog
from .catalog.publications import Look, MissingRows, Publication, Publications
from .connection_url import sqlite_url
from .database import Database, open_database
from .errors import (
    ClaimLostError,
    DatabaseError,
    DatabaseUrlError,
    ErrorKind,
    IllegalTransitionError,
    LedgerError,
    LockNotAvailableError,
    UnknownUploadError,
)
from .fields import format_time
from .ledger import Ledger
from .ledger_reader import LedgerReader
from .migration import (
    MIGRATIONS,
    current_role,
    migrate,
    pending_migrations,
    schema_version,
    try_migration,
    unusable_tables,
)
from .models import QUALITIES, SMALL_BYTES
from .records import (
    JSON,
    Admission,
    CatalogRow,
    Identity,
    InstanceReport,
    Observer,
    Progress,
    Proof,
    Turn,
    Upload,
    UploadEvent,
)
from .services import DialectFinding, Invalidation, Invalidations, Notification, Outbox, ServerDialects
from .state_counts import OUTCOME_PERIODS, Outcomes
from .states import TRANSITIONS, State
from .steering import HELD, HELD_FOR, Left, Orders, Pause, Steering

__all__ = [
    "HELD",
    "HELD_FOR",
    "JSON",
    "MAX_ZONE_DIFFERENCE",
    "MIGRATIONS",
    "OUTCOME_PERIODS",
    "QUALITIES",
    "SMALL_BYTES",
    "TRANSITIONS",
    "Admission",
    "Catalog",
    "CatalogRow",
    "ClaimLostError",
    "CompressorTable",
    "Database",
    "DatabaseError",
    "DatabaseUrlError",
    "DialectFinding",
    "ErrorKind",
    "Identity",
    "IllegalTransitionError",
    "InstanceReport",
    "Invalidation",
    "Invalidations",
    "Ledger",
    "LedgerError",
    "LedgerReader",
    "Left",
    "LockNotAvailableError",
    "Look",
    "MissingRows",
    "NoCatalog",
    "Notification",
    "Observer",
    "Orders",
    "Outbox",
    "Outcomes",
    "OwnCatalog",
    "Pause",
    "Progress",
    "Proof",
    "Publication",
    "Publications",
    "ServerDialects",
    "State",
    "Steering",
    "Turn",
    "UnknownUploadError",
    "Upload",
    "UploadEvent",
    "current_role",
    "format_time",
    "migrate",
    "open_database",
    "pending_migrations",
    "schema_version",
    "sqlite_url",
    "try_migration",
    "unusable_tables",
]
