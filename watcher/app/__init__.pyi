from .daemon import Daemon
from .single_pass import SinglePass
from .sole_instance import SoleInstance
from .startup import StartStoppedError, Startup
from .wiring import Application, open_application

__all__ = [
    "Application",
    "Daemon",
    "SinglePass",
    "SoleInstance",
    "StartStoppedError",
    "Startup",
    "open_application",
]
