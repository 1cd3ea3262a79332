"""The stages that advance an upload: enqueue, upload, publish, release; and how their errors are handled."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
