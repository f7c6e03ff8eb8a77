"""MPNet (Song et al. 2020, arXiv:2004.09297): its facts, which need no torch, and its forward pass.

This file imports nothing, so that planning starts without torch.
"""
