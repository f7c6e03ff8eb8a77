"""Audits a finished dataset: its metadata, each shard, reconciliation with the plan, embedding again."""
