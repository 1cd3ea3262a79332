"""What boto3 and botocore contribute: sessions and clients, errors, trust, and the parsing of answers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
