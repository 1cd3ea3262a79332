"""Operations that a command carries out by itself: doctor, audit, dry run, explanations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
