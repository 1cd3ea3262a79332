"""The command line: what a person types, and every error as one sentence that says what to change."""
