"""The bucket's own documents: what they should say, and how they are set."""
