"""What a run would do and cost: the plan, a sample of the texts, and measured rates."""
