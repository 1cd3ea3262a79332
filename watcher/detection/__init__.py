"""Detection of finished files: events, scans, the completeness check, and the settler."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
