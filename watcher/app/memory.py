"""Keeps what is not used out of memory: libraries, and what glibc holds; see mallopt(3) and malloc_trim(3).

By default glibc gives most threads a heap of their own, up to eight for each processor, and each keeps what
was freed in it. Other C libraries are left alone.
"""

import ctypes
import gc
import sys
from importlib import import_module
from typing import Any

_M_ARENA_MAX = -8
ARENAS = 2
"""Heaps of all threads together: because of the interpreter's lock they seldom allocate at the same time."""


def import_structlog() -> None:
    """Import structlog, which comes first, without rich, which would take 5 MiB and a tenth of the start.

    It would have rich format the tracebacks that it logs; ours are plain. Rich can be imported afterwards.
    """
    modules: dict[str, Any] = sys.modules
    if "rich" in modules:
        return
    modules["rich"] = None  # an ImportError for who imports it: see the documentation of `import`
    try:
        import_module("structlog")
    finally:
        del modules["rich"]


def limit_heaps() -> None:
    """Have all threads share `ARENAS` heaps; only threads that are started later heed it."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Give free memory back to the system, such as what the start needed."""
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
