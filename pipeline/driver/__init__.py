"""Runs one job from start to end: plans, embeds, commits, lets readers follow; tries rejects again."""
