"""Uploads through the CRT, in a single PUT or in parts, within shared limits of memory and bandwidth."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
