"""Uploads through the CRT, in a single PUT or in parts, within shared limits of memory and bandwidth."""
