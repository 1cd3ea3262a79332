"""Schema migrations, one numbered file each, applied in order by `db.migrate`."""
