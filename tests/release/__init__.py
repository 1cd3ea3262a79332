"""What is released: the wheel, the sdist and the Debian package."""
