"""Entry points: `python -m jobs.NAME`, and so `ray job submit ... -- python -m jobs.NAME`."""
