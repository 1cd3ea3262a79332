"""Builds the application from the settings and runs it, as a daemon or for a single pass."""

from watcher.app.daemon import Daemon
from watcher.app.single_pass import SinglePass
from watcher.app.sole_instance import SoleInstance
from watcher.app.wiring import Application, open_application

__all__ = ["Application", "Daemon", "SinglePass", "SoleInstance", "open_application"]
