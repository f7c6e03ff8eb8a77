"""Distributed batch embeddings with ALBERT on Ray Data: one split, one Ray row, one shard."""

__version__ = "0.1.0"
