"""What commands do on their own: doctor, audit, dry run."""
