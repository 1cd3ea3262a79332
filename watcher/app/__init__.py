"""Puts the program together from the settings and runs it: as a daemon, or once."""
