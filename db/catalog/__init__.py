"""The catalog, as the daemon's own table or as the compressor's, and what its rows were made to show."""
