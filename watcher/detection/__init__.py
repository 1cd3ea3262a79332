"""Detection of finished files: events, scans, the completeness check, and the settler."""
