"""Access to the watched directory: through descriptors only, never through a symbolic link."""
