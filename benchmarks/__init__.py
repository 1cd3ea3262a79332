"""What the daemon's work costs: programs that measure, print a table, and fail where a promise is broken."""
