"""Texts become token ids, and long texts become chunks. Starts without torch."""
