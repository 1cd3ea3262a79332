"""What boto3 and botocore contribute: sessions and clients, errors, trust, and the parsing of answers."""
