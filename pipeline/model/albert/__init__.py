"""ALBERT (Lan et al. 2019, arXiv:1909.11942): its facts, which need no torch, and its forward pass.

This file imports nothing, so that planning starts without torch.
"""
