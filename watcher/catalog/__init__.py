"""The compressor's rows: which are a file's, when it may be sent, where its URL must stand."""
