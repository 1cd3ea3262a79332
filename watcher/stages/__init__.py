"""What advances an upload: enqueue, upload, publish, release, and what happens to a row that cannot go on."""
