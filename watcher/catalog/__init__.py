"""The compressor's catalog: admits uploads by its rows and publishes URLs into them."""
