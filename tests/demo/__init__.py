"""The main job on real input, shown live: ``make demo``.

A stand-in compressor makes real videos, the real daemon puts them into an S3 server on this machine, and
whatever the daemon says about it is checked from outside.
"""
