"""Uploads over a real line that is slow, under a stand-in for the service manager's watchdog."""
