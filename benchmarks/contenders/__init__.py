"""The same job as users of each system would write it: `python CONTENDER.py SOURCE OUTPUT MODEL`.

SOURCE is a folder of Parquet files with `id` and `text`; OUTPUT gets Parquet files with `id` and `embedding`;
MODEL is a folder that sentence-transformers loads. Each is a program of its own, as it would be, and imports
nothing of ours. Where a system leaves half of two processors idle by its defaults, it is told to use both.
"""
