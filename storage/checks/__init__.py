"""Checks of S3 by real requests, for `doctor` and before publication."""
