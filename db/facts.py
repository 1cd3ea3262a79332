"""What a stage may write into an upload's row besides its state."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict


class Admission(TypedDict):
    """What the catalog gate settles when it lets an upload through: the row, and the names it decides."""

    catalog_row_id: str
    catalog_row_at: datetime
    filename: str
    quality: str
    object_key: str


class Progress(TypedDict, total=False):
    """What a stage may record while it works on an upload (`db.records.Upload` names the units)."""

    catalog_row_id: str
    catalog_row_at: datetime
    filename: str
    quality: str
    object_key: str

    checksum: str | None
    etag: str | None
    multipart_id: str | None
    part_size: int | None
    bytes_sent: int
    url: str | None
    published_at: datetime


class Proof(TypedDict, total=False):
    """What a stage may record as it moves an upload on."""

    checksum: str | None
    etag: str | None
    version_id: str | None
    confirmed_by: str | None
    url: str | None


def only(facts: Mapping[str, Any], allowed: type[Progress] | type[Proof]) -> dict[str, Any]:
    """The facts, once it is sure that all are allowed: a stage cannot write a state or a claim by this way.

    Raises TypeError.
    """
    if unknown := facts.keys() - allowed.__annotations__.keys():
        raise TypeError(f"not a fact that may be recorded here: {', '.join(sorted(unknown))}")
    return dict(facts)
