"""Checks of S3 by real requests, for `doctor` and before publication."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
