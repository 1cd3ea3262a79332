"""A video of any size that takes little disk: a small real one, and padding that is mostly claimed."""

from __future__ import annotations

import os

MARK_EVERY = 8 * 1024 * 1024
"""Parts of equal content could be mistaken for one another unseen."""

MARK = 1024 * 1024
"""What is written of each; a file of which less than a tenth is written counts as incomplete."""


def make_sparse_video(path: str, video: bytes, size: int) -> None:
    """Write the MP4 `video`, whose index is in front, and a `free` box to the end of `size` bytes.

    Governing source: ISO/IEC 14496-12, section 4.2 (a size of 1 says that 64 bits with the size follow).
    """
    with open(path, "wb") as file:
        file.write(video)
        file.write((1).to_bytes(4) + b"free" + (size - len(video)).to_bytes(8))
        first = -(-file.tell() // MARK_EVERY) * MARK_EVERY
        for offset in range(first, size - 8, MARK_EVERY):
            file.seek(offset)
            file.write(offset.to_bytes(8) * (min(MARK, size - 8 - offset) // 8))
        file.truncate(size)
    assert os.stat(path).st_blocks * 512 < size // 5
