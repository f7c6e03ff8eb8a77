"""The same job, written as users of each system would write it: `python CONTENDER.py SOURCE OUTPUT MODEL`.

SOURCE is a folder of Parquet files with `id` and `text`; OUTPUT gets Parquet files with `id` and `embedding`;
MODEL is a folder that sentence-transformers loads. Each is a program of its own, and imports nothing from
this project. If a system's defaults leave half of two processors idle, its program sets both.
"""
