"""The bucket itself: the documents that it needs, their administration, and the IAM policy of the daemon."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
