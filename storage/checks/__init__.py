"""Checks that the bucket can be used as the settings ask, by trying it."""
