"""The ledger (what was done with each file and is due) and the catalog (the URLs that players are given).

Independent of S3 and of `watcher`.
"""

from db.catalog.compressor_table import MAX_ZONE_DIFFERENCE, CompressorTable
from db.catalog.own_catalog import Catalog, NoCatalog, OwnCatalog
from db.catalog.publications import Look, MissingRows, Publication, Publications
from db.connection_url import sqlite_url
from db.database import Database, open_database
from db.errors import (
    ClaimLostError,
    DatabaseError,
    DatabaseUrlError,
    ErrorKind,
    IllegalTransitionError,
    LedgerError,
    LockNotAvailableError,
    UnknownUploadError,
)
from db.fields import format_time
from db.ledger import Ledger
from db.ledger_reader import LedgerReader
from db.migration import (
    MIGRATIONS,
    current_role,
    migrate,
    pending_migrations,
    schema_version,
    try_migration,
    unusable_tables,
)
from db.models import QUALITIES, SMALL_BYTES
from db.records import (
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
from db.services import DialectFinding, Invalidation, Invalidations, Notification, Outbox, ServerDialects
from db.state_counts import OUTCOME_PERIODS, Outcomes
from db.states import TRANSITIONS, State
from db.steering import HELD, HELD_FOR, Left, Orders, Pause, Steering

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
