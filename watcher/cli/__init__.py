"""The command line: its commands, their output and exit codes."""

from watcher.cli.app import main

__all__ = ["main"]
