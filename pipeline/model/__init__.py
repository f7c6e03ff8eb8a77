"""A checkpoint becomes vectors: its files, the embedding spec, ALBERT, the encoder, pooling.

Only modules of this package import torch. This file imports nothing, so that planning starts without it.
"""
