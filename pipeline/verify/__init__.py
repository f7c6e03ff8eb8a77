"""Audits a finished dataset: checks metadata and shards, reconciles rows with the plan, embeds some again."""
