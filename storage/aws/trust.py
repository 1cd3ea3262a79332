"""The certificate authorities that TLS connections trust: botocore's choice, for every library alike.

The path may be a file or a directory. boto3 takes a file only, and the CRT takes files without comments and
directories with hashed names only, so that each gets the certificates in the form it takes.
"""

import os
import re
import ssl
from functools import cached_property
from pathlib import Path

import botocore.session
from botocore.httpsession import get_cert_path

from storage.aws.errors import translated
from storage.errors import ErrorKind, StorageError

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


class Trust:
    """The authorities that a botocore session trusts. Close it after the last use of `bundle_file`.

    `path` is AWS_CA_BUNDLE or else the profile's `ca_bundle`, else REQUESTS_CA_BUNDLE, else botocore's own
    bundle. A path that cannot be used raises `StorageError` of kind environment when it is read.
    """

    def __init__(self, session: botocore.session.Session) -> None:
        with translated("find the certificate authorities", None):
            configured = session.get_config_variable("ca_bundle")
            if configured is None:
                configured = os.environ.get("REQUESTS_CA_BUNDLE", get_cert_path(True))
        self.path = str(configured)
        self._memory: int | None = None
        if not self.path.strip():
            raise self.unusable("the path is empty")

    def close(self) -> None:
        """Release `bundle_file`."""
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    @cached_property
    def certificates(self) -> str:
        """The certificates, as PEM and without anything between them."""
        try:
            contents = [path.read_bytes() for path in _files(Path(self.path))]
        except OSError as exc:
            raise self.unusable(exc.strerror or str(exc)) from exc
        found = dict.fromkeys(certificate for content in contents for certificate in _PEM.findall(content))
        if not found:
            raise self.unusable("it holds no certificate")
        return b"\n".join(found).decode("ascii")

    @cached_property
    def bundle_file(self) -> str:
        """The path of a file that holds the certificates: `path` itself, or for a directory one in memory."""
        if not os.path.isdir(self.path):
            return self.path
        content = self.certificates.encode("ascii")
        self._memory = os.memfd_create("ca-bundle")
        with open(self._memory, "wb", closefd=False) as file:
            file.write(content)
        return f"/proc/self/fd/{self._memory}"

    def context(self, *, with_system: bool = False) -> ssl.SSLContext:
        """A client's TLS context that trusts these authorities, and `with_system` those of the system too."""
        try:
            if not with_system:
                return ssl.create_default_context(cadata=self.certificates)
            context = ssl.create_default_context()
            context.load_verify_locations(cadata=self.certificates)
        except ssl.SSLError as exc:
            raise self.unusable(exc.reason or str(exc)) from exc
        return context

    def unusable(self, reason: str) -> StorageError:
        """The error that says that the authorities cannot be used."""
        return StorageError(
            ErrorKind.ENVIRONMENT,
            "set up TLS",
            None,
            "bad-settings",
            f"{self.path} cannot be used as certificate authorities ({reason}): correct AWS_CA_BUNDLE, or "
            "unset it.",
        )


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
