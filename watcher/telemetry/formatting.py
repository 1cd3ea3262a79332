"""Formats names, sizes, durations and times for a terminal."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db import Pause

BY_HAND = "uploads"
"""What an operator pauses, where the paused parts of the daemon are named."""


def printable(text: str) -> str:
    """Return the text with control characters and undecodable bytes escaped, safe for a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def bounded(text: str, most: int) -> str:
    """Return the text, without its middle if it has more than so many characters."""
    if len(text) <= most:
        return text
    kept = (most - 1) // 2
    return f"{text[:kept]}…{text[-kept:]}"


def quoted(value: str) -> str:
    """Return a wrong value as a message shows it: in quotes, escaped, without its middle if it is long."""
    return repr(bounded(value, 100))


def human_size(size: float) -> str:
    """Format a number of bytes in binary units (IEC 80000-13), such as ``1.5 MiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def human_duration(duration: timedelta) -> str:
    """Format a duration in its two largest units, such as ``3 h 20 min``; a negative one as ``0 s``."""
    seconds = max(0, round(duration.total_seconds()))
    parts = []
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        amount, seconds = divmod(seconds, length)
        if amount:
            parts.append(f"{amount} {name}")
    return " ".join(parts[:2]) or "0 s"


def human_time(moment: datetime | None) -> str:
    """Format a UTC time to the second, and None as a dash."""
    return moment.strftime("%Y-%m-%d %H:%M:%SZ") if moment else "-"


def describe_pause(pause: Pause) -> str:
    """How uploads came to be paused, and what resumes them; goes on from "paused"."""
    reason = f" ({pause.reason})" if pause.reason else ""
    return f"by hand since {human_time(pause.at)}{reason}; `video-uploader resume` resumes them"
