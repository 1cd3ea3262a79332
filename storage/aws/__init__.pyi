from .clients import AwsSession, Closeable
from .errors import translate, translated
from .response_parsing import present, required
from .sessions import BoundedSession
from .trust import Trust

__all__ = [
    "AwsSession",
    "BoundedSession",
    "Closeable",
    "Trust",
    "present",
    "required",
    "translate",
    "translated",
]
