"""Sends bytes to S3 through the CRT: in one request or in parts."""
