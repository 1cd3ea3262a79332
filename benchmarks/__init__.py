"""Benchmarks of the daemon beside other programs that copy to S3: `make bench` and `make bench-quick`."""
