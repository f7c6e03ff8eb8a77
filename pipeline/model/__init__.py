"""Turns a checkpoint and texts into vectors: files, embedding spec, ALBERT, encoder, pooling.

Only modules of this package import torch. This file imports nothing, so that planning starts without torch.
"""
