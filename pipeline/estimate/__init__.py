"""Estimates what a run would do and cost from the plan, a sample of the texts, and measured rates."""
