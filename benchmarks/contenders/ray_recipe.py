"""Ray Data's recipe: read_parquet, map_batches of an actor with SentenceTransformer, write_parquet."""

import os
import sys

import ray
import torch
from sentence_transformers import SentenceTransformer

source, output, model = sys.argv[1:]


class Embedder:
    def __init__(self) -> None:
        torch.set_num_threads(os.cpu_count())
        self.model = SentenceTransformer(model, device="cpu")

    def __call__(self, batch):
        batch["embedding"] = self.model.encode(batch["text"].tolist(), batch_size=32, show_progress_bar=False)
        del batch["text"]
        return batch


ray.init("local", include_dashboard=False, log_to_driver=False)
rows = ray.data.read_parquet(source)
rows.map_batches(Embedder, batch_size=64, concurrency=1).write_parquet(output)
