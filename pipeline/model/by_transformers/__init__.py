"""Encoders that have no forward pass here, and that transformers runs: what is known of them, and the pass.

This file imports nothing, so that planning starts without torch and without transformers.
"""
