"""The bucket itself: the documents that it needs, their administration, and the IAM policy of the daemon."""
