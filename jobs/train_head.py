"""Trains a head on a dataset: `python -m jobs.train_head DATASET --label COLUMN --output HEAD`.

The label is a column that the dataset carries. A logistic regression learns it from the vectors. A part of
the texts is held out, and decides the figures that are printed. With `model.head: HEAD` in a config, every
text gets its label beside its vector. See docs/heads.md.

Shapes: N rows, D dimensions, L labels.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix
from sklearn.model_selection import GridSearchCV

from pipeline import parsing
from pipeline.config.location import absolute
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.expected import Expected
from pipeline.dataset.identity import Identity
from pipeline.errors import ConfigError, IncompleteError, MissingError, PipelineError
from pipeline.model.outputs import embedding
from pipeline.model.trained_head import TrainedHead

PENALTIES = {"C": [1.0, 10.0, 100.0, 1000.0]}
"""The inverse strengths of regularisation that are tried, by cross-validation on what is not held out."""
FOLDS = 3
FEWEST = 2 * FOLDS
"""The fewest texts of a label on each side."""
MOST_LABELS = 1000

Strings = npt.NDArray[np.str_]
Fractions = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Labelled vectors.

    vectors: (N, D) float32.  labels: (N,).  held_out: (N,), the rows that only test.
    """

    vectors: embedding.Vectors
    labels: Strings
    held_out: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Trained:
    """A head, and what it does on the texts that were held out.

    accuracy: the share of them that get their label.  majority: the share of the most frequent label.
    table: precision, recall and F1 of each label.  confusion: (L, L), rows of a label that got another.
    """

    head: TrainedHead
    accuracy: float
    majority: float
    table: str
    confusion: pd.DataFrame

    def __str__(self) -> str:
        """Returns the figures as a person reads them."""
        figures = f"accuracy {self.accuracy:.4f}; always the most frequent label: {self.majority:.4f}"
        return f"{self.table}\n{figures}\n\nrows: the label; columns: what the head says\n{self.confusion}"


def train(root: str, label: str, output: str, held_out: float = 0.2, most: int = 200_000) -> Trained:
    """Trains a head on a complete dataset; writes nothing.

    Args:
        label: the column with the labels; rows without one are left out.
        output: the folder or URL that the head is for.
        held_out: the share of the texts that only test, 0 to 1.
        most: about the most rows to use.

    Raises:
        MissingError: there is no dataset.
        IncompleteError: it is not complete.
        ConfigError: it has no vectors or no such column, or too few texts of a label.
    """
    dataset = Dataset(root)
    identity = _identity(dataset)
    rows = _labelled(dataset, identity, label, held_out, most)
    _refuse_few(rows, label)
    learns = ~rows.held_out
    search = GridSearchCV(LogisticRegression(max_iter=2000), PENALTIES, cv=FOLDS)
    found = search.fit(rows.vectors[learns], rows.labels[learns]).best_estimator_
    head = TrainedHead.of(output, tuple(map(str, found.classes_)), identity.vector_fields, *_layer(found))
    return _tested(head, found.predict(rows.vectors[rows.held_out]), rows.labels[rows.held_out])


def _identity(dataset: Dataset) -> Identity:
    """Returns the identity of a dataset that has vectors to learn from."""
    identity, root = dataset.identity(), dataset.layout.root
    if identity is None:
        raise MissingError("no dataset here", root, hint="name its folder or URL")
    if not dataset.complete():
        raise IncompleteError("is not complete", root, hint="run its config again")
    if "embedding" not in identity.outputs.names:
        raise ConfigError("has no vectors", root, hint="add embedding to model.outputs of its config")
    if identity.outputs.vector == "binary":
        hint = "embed with model.vector float32 or int8"
        raise ConfigError("has only one bit of each number of a vector", root, hint=hint)
    return identity


def _labelled(dataset: Dataset, identity: Identity, label: str, held_out: float, most: int) -> Labelled:
    """Reads vectors and labels.

    A text is held out by its hash. So equal texts are on one side, and a text stays on its side when the
    corpus grows.
    """
    wanted = _columns(dataset, identity, label)
    share = min(1.0, most / max(1, pc.sum(dataset.manifest().column("rows")).as_py() or 0))
    found = [wanted.empty_table()]
    for info in dataset.shards().values():
        shard = parsing.table(dataset.storage.read(info.path), wanted, info.path)
        shard = shard.filter(pc.is_valid(shard.column(label)))
        found.append(shard.filter(pa.array(hash_fractions(shard, 8) < share)))
    table = pa.concat_tables(found)
    return Labelled(
        vectors=embedding.load(table, identity.dimension),
        labels=np.asarray(table.column(label).cast(pa.string()).to_pylist(), np.str_),
        held_out=hash_fractions(table, 0) < held_out,
    )


def _columns(dataset: Dataset, identity: Identity, label: str) -> pa.Schema:
    """Returns the columns to read: the label, the vector, and the hash of the text."""
    columns, root = Expected.of(identity, dataset.required_plan().columns).columns, dataset.layout.root
    if label not in columns.names:
        hint = f"carry it (source.NAME.carry); there are {', '.join(columns.names)}"
        raise ConfigError("has no such column", root, label, hint)
    kind = columns.field(label).type
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        hint = "carry strings, integers or booleans"
        raise ConfigError("is not a column of labels", f"{root}: {label}", str(kind), hint)
    return pa.schema([field for field in columns if field.name in {label, "text_hash", *embedding.COLUMNS}])


def hash_fractions(shard: pa.Table, start: int) -> Fractions:
    """Returns eight bytes of each text's hash as a number from 0 to 1, (N,)."""
    hashes = b"".join(each[start : start + 8] for each in shard.column("text_hash").to_pylist())
    return np.frombuffer(hashes, ">u8") / 2.0**64


def _refuse_few(rows: Labelled, label: str) -> None:
    """Refuses labels from which nothing can be learned.

    Raises:
        ConfigError: there is one label, or there are too many, or one has too few texts.
    """
    names = np.unique(rows.labels)
    if not 2 <= len(names) <= MOST_LABELS:
        hint = f"name a column of 2 to {MOST_LABELS} labels"
        raise ConfigError("is not a column of labels", label, f"{len(names)} different values", hint)
    for side, where in ((~rows.held_out, "to learn from"), (rows.held_out, "that are held out")):
        for name in names:
            if (texts := int((rows.labels[side] == name).sum())) < FEWEST:
                hint = f"{FEWEST} are needed: add labelled rows, leave the label null, or change --held-out"
                raise ConfigError(f"too few texts {where} have the label {name!r}", label, str(texts), hint)


def _layer(found: LogisticRegression) -> Sequence[npt.NDArray[np.float32]]:
    """Returns weight and bias, (L, D) and (L,); of two labels the first has the score 0."""
    weight_LD, bias_L = found.coef_, found.intercept_
    if len(weight_LD) == 1:
        weight_LD = np.concatenate([np.zeros_like(weight_LD), weight_LD])
        bias_L = np.concatenate([np.zeros_like(bias_L), bias_L])
    return np.ascontiguousarray(weight_LD, np.float32), np.ascontiguousarray(bias_L, np.float32)


def _tested(head: TrainedHead, said: Strings, right: Strings) -> Trained:
    names = list(head.labels)
    return Trained(
        head=head,
        accuracy=float(accuracy_score(right, said)),
        majority=max(float((right == name).mean()) for name in names),
        table=classification_report(right, said, labels=names, digits=4, zero_division=0),
        confusion=pd.DataFrame(confusion_matrix(right, said, labels=names), names, names),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.train_head", description=__doc__)
    parser.add_argument("dataset", help="the folder or URL of a complete dataset")
    parser.add_argument("--label", required=True, metavar="COLUMN", help="the carried column of labels")
    parser.add_argument("--output", required=True, metavar="HEAD", help="the folder or URL to write")
    parser.add_argument("--held-out", type=float, default=0.2, help="the share of texts that only test")
    parser.add_argument("--rows", type=int, default=200_000, help="about the most rows to use")
    told = parser.parse_args(arguments)
    try:
        trained = train(absolute(told.dataset), told.label, absolute(told.output), told.held_out, told.rows)
        trained.head.write()
    except PipelineError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    print(trained, f"\nwritten: {told.output}; set model.head to it", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
