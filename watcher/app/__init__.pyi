from .daemon import Daemon
from .single_pass import SinglePass
from .sole_instance import SoleInstance
from .wiring import Application, open_application

__all__ = [
    "Application",
    "Daemon",
    "SinglePass",
    "SoleInstance",
    "open_application",
]
