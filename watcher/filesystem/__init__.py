"""Access to the watched directory: through descriptors only, never through a symbolic link."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
