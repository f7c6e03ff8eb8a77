"""Runs one job from start to end: plan, embed, commit, let readers follow; tries rejects again."""
