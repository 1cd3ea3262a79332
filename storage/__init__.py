"""S3: object keys, uploads and their verification, bucket set-up, checks, CDN invalidation.

This is the package's interface; nothing of boto3, botocore and the CRT is part of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
