"""Builds the application from the settings and runs it, as a daemon or for a single pass."""
