"""What a person or a program is told: logs, metrics, transfer progress."""
