"""Spark: a pandas UDF over batches; a task and a thread per processor; each task loads the model once."""

import os
import sys
from collections.abc import Iterator

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf

source, output, model = sys.argv[1:]
os.environ["PYSPARK_PYTHON"] = sys.executable
spark = (
    SparkSession.builder.master(f"local[{os.cpu_count()}]").config("spark.ui.enabled", "false").getOrCreate()
)


@pandas_udf("array<float>")
def embed(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    encoder = SentenceTransformer(model, device="cpu")
    for texts in batches:
        yield pd.Series(list(encoder.encode(texts.tolist(), batch_size=32, show_progress_bar=False)))


rows = spark.read.parquet(source).repartition(os.cpu_count())
rows.select("id", embed("text").alias("embedding")).write.parquet(output)
