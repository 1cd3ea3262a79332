"""An S3 server as a program: says its URL on stdout, and ends when its stdin does.

So it ends with the process that started it, even if that was killed.
"""

from __future__ import annotations

import sys

from tests.demo.setup import BUCKET
from tests.support.s3_server import S3Server

if __name__ == "__main__":
    with S3Server() as server:
        server.create_bucket(BUCKET)
        print(server.url, flush=True)
        sys.stdin.read()
