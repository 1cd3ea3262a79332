"""One suite for every S3 server: what `storage` guarantees, tested on real servers that differ."""
