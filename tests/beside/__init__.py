"""The daemon beside the stand-in compressor: real encodes, rows and objects, in every order of starting."""
