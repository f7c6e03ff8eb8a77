"""Source files become documents: survey a file, read its pieces, separate what must be rejected."""
