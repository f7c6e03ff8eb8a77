"""Fetches a model's folder to this node: from the Hub, or from object storage."""
