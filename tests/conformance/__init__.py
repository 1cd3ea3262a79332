"""One suite for every S3 server: what `storage` promises, held against real servers that differ."""
