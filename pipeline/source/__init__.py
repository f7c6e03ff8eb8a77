"""Turns source files into documents: surveys a file, reads its pieces, separates rejects."""
