"""Everything that touches the watched directory: by descriptors, never through a symbolic link."""
