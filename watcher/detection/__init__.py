"""Sees files and finds out when they are finished: events, scans, settling."""
