"""BERT (Devlin et al. 2018, arXiv:1810.04805), RoBERTa (Liu et al. 2019, arXiv:1907.11692) and DistilBERT.

The families that share this forward pass: their facts, which need no torch, and the pass. This file imports
nothing, so that planning starts without torch.
"""
