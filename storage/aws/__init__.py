"""boto3 clients, their errors and their answers."""
