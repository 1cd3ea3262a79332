"""Whose an object is: what the ledger knows of every upload that has, or had, its key."""

from collections.abc import Collection
from typing import Any

from peewee import fn

from db.querying import Queries
from db.records import Upload
from db.states import State


class KeyHistory(Queries):
    """The questions about object keys; several uploads, of one path or of several, can have one key."""

    def same_key(self, upload: Upload) -> Upload | None:
        """The oldest upload of another path that has, or is on its way to, the same object key.

        Two files for one key would overwrite each other's object.
        """
        uploads = self._uploads
        holding = [State.PENDING, State.VERIFIED, State.PUBLISHED, State.RELEASED]
        query = (
            uploads.select()
            .where(
                self._ours,
                uploads.object_key == upload.object_key,
                uploads.path != upload.path,
                uploads.state.in_(holding),
            )
            .order_by(uploads.id)
        )
        return self._first("look for another file of the same key", query)

    def of_key(self, object_key: str, *, all_instances: bool = False) -> list[Upload]:
        """Every upload that has or had this object key, oldest first."""
        uploads = self._uploads
        query = uploads.select().where(uploads.object_key == object_key).order_by(uploads.id)
        if not all_instances:
            query = query.where(self._ours)
        return self._fetch("look up an object key", query)

    def replaces(self, upload: Upload) -> bool:
        """Whether an earlier upload of the same object key was ever verified with another checksum."""
        uploads = self._uploads
        query = uploads.select().where(
            self._ours,
            uploads.id < upload.id,
            uploads.object_key == upload.object_key,
            uploads.checksum != upload.checksum,
            self._was_verified,
        )
        return self._first("see whether an object was replaced", query) is not None

    def proof_for_row(self, upload: Upload) -> Upload | None:
        """An upload of other content, of any instance, whose object no row of this one is newer than.

        It was verified for the catalog row that this upload was let through for, or for a newer one.
        """
        if upload.catalog_row_at is None:
            return None
        uploads = self._uploads
        query = uploads.select().where(
            uploads.id != upload.id,
            uploads.object_key == upload.object_key,
            uploads.checksum != upload.checksum,
            uploads.catalog_row_at >= upload.catalog_row_at,
            self._was_verified,
        )
        return self._first("see what an object was verified for", query.order_by(uploads.id.desc()))

    def replaced_by(self, upload: Upload, etag: str) -> Upload | None:
        """The later upload, of any instance, that put the object with this ETag in place of the upload's."""
        uploads = self._uploads
        query = uploads.select().where(
            uploads.object_key == upload.object_key,
            uploads.id > upload.id,
            uploads.etag == etag,
            self._was_verified,
        )
        return self._first("see what replaced an object", query)

    def latest_of_keys(self, object_keys: Collection[str]) -> dict[str, int]:
        """By object key, the number of the last upload, of any instance, whose object is proven."""
        uploads = self._uploads
        proven = [State.VERIFIED, State.PUBLISHED, State.RELEASED]
        query: Any = uploads.select(uploads.object_key, fn.MAX(uploads.id)).where(
            uploads.object_key.in_(list(object_keys)), uploads.state.in_(proven)
        )
        with self._database.operation("see which uploads keys have"):
            return dict(query.group_by(uploads.object_key).tuples())

    def known_keys(self, object_keys: Collection[str]) -> set[str]:
        """Which of the object keys any upload, of any instance, has or had."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.object_key).where(uploads.object_key.in_(list(object_keys)))
        with self._database.operation("see which keys are ours"):
            return set(query.distinct().scalars())

    def known_etag(self, object_key: str, etag: str) -> bool:
        """Whether an upload of any instance has sent an object with this ETag under the key."""
        uploads = self._uploads
        query = uploads.select().where(uploads.object_key == object_key, uploads.etag == etag)
        return self._first("see whose object this is", query) is not None

    def urls_of(self, path: str) -> set[str]:
        """Every public URL that an object of this path was ever given."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.url).where(
            self._ours, uploads.path == path, uploads.url.is_null(False)
        )
        with self._database.operation("list the URLs of a path"):
            return set(query.distinct().scalars())

    @property
    def _was_verified(self) -> Any:
        """True of a row with a proof, or whose story tells of one: what loses its object loses its proof."""
        uploads, events = self._uploads, self._database.tables.events
        told: Any = events.select(events.id).where(
            events.upload == uploads.id, events.event == State.VERIFIED.value
        )
        return uploads.verified_at.is_null(False) | fn.EXISTS(told)
