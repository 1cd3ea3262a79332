"""Builds the application from the settings and runs it, as a daemon or for a single pass."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
