"""What can go wrong, as named objects that tests use again, and the table of what was survived."""
