"""The daemon beside the stand-in compressor: real encodes, real rows, real objects, whoever starts first."""
