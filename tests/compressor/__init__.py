"""A stand-in for the compressor: it does to the output directory, step by step, what the real one does.

It knows nothing of the daemon, as the real one does not.
"""
