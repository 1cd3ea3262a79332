"""Exit codes, and the error that ends a command with one of them."""

from __future__ import annotations

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
"""Success; the command failed or found something wrong; wrong usage or settings."""


class CommandError(Exception):
    """Ends a command; the message is the sentence that the user reads, `code` the exit code."""

    def __init__(self, sentence: str, code: int = EXIT_FAILED) -> None:
        super().__init__(sentence)
        self.code = code
