"""Checks that entities are those of transformers' pipeline for token classification, one text at a time."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from transformers import pipeline as transformers_pipeline

from pipeline.config.sections import Model
from pipeline.model import checkpoint, outputs, token_places
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.encoder import Encoder
from pipeline.model.output_spec import OutputSpec, Tags
from pipeline.model.outputs import entities
from pipeline.model.token_places import PLACE, PlacedTokens
from pipeline.model.tokenizer.texts import tokenized
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.ragged import Ragged
from tests.model.outputs.awkward_texts import awkward_texts
from tests.models_with_heads import chinese_with_tags, with_tags

LIMIT = 24
SCHEMES = {
    "BIO": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "IOB1": ["I-LOC", "O", "I-PER", "B-PER"],
    "BIOES": ["O", "B-PER", "I-PER", "E-PER", "S-PER", "S-LOC"],
    "plain": ["LOC", "O", "PER", "a-b-c"],
}
MODELS: dict[str, Callable[[Path, list[str]], Path]] = {
    "sentencepiece": with_tags,
    "WordPiece": chinese_with_tags,
}
Rows = list[dict[str, Any]]


def rows_of(folder: Path, texts: list[str], **asked: Any) -> Rows:
    """Returns the columns of texts, as a shard has them."""
    found = checkpoint.resolve(str(folder))
    found.check()
    recipe = EmbeddingSpec.of(found, Model(name=str(folder), **{"max_tokens": LIMIT, **asked}))
    encoder, tokenizer = Encoder(found, recipe=recipe), Tokenizer(found, LIMIT)
    tokens, parts = tokenized(pa.array(texts, pa.large_string()), tokenizer, recipe)
    assert tokens.places is not None
    chunks = np.bincount(parts.text) if parts and not recipe.chunked else None
    placed = token_places.of_rows(tokens.places, tokens.lengths, chunks)
    encoded = encoder.run(tokens)
    values = {
        **outputs.parted(encoded.values, encoder.outputs),
        **outputs.joined(encoded.of_tokens, placed, encoder.outputs),
    }
    fields = outputs.fields(encoder.outputs)
    rows: Rows = pa.table(outputs.store(values, encoder.outputs), pa.schema(fields)).to_pylist()
    return rows


def theirs_of(folder: Path, aggregation: str, max_tokens: int) -> Callable[[str], Rows]:
    """Returns transformers' pipeline, for one text at a time."""
    theirs = transformers_pipeline("token-classification", str(folder), aggregation_strategy=aggregation)
    theirs.tokenizer.model_max_length = max_tokens

    def of(text: str) -> Rows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it guesses where words begin, and says so
            rows: Rows = theirs(text)
        return rows

    return of


def assert_same(ours: Rows, theirs: Rows, text: str) -> None:
    """Checks that labels and places are the same, and scores within 1e-5."""
    found = [(each["label"], each["char_start"], each["char_stop"]) for each in ours]
    assert found == [(each["entity_group"], each["start"], each["end"]) for each in theirs], repr(text)
    scores = [[each["score"] for each in both] for both in (ours, theirs)]
    np.testing.assert_allclose(*scores, atol=1e-5, err_msg=repr(text))


def compare(folder: Path, aggregation: str, texts: list[str]) -> None:
    theirs = theirs_of(folder, aggregation, LIMIT)
    rows = rows_of(folder, texts, outputs=("entities",), aggregation=aggregation)
    assert sum(len(row["entities"]) for row in rows) > len(texts) / 2
    for text, row in zip(texts, rows, strict=True):
        assert_same(row["entities"], theirs(text), text)


@pytest.mark.parametrize("aggregation", ["simple", "first"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("model", MODELS)
def test_entities_are_those_of_transformers(
    tmp_path: Path, model: str, scheme: str, aggregation: str
) -> None:
    folder = MODELS[model](tmp_path / "model", SCHEMES[scheme])
    compare(folder, aggregation, awkward_texts(60, seed=len(scheme)))


@pytest.mark.full
@pytest.mark.parametrize("model", MODELS)
def test_entities_of_two_thousand_texts_are_those_of_transformers(tmp_path: Path, model: str) -> None:
    folder = MODELS[model](tmp_path / "model", sorted({tag for tags in SCHEMES.values() for tag in tags}))
    for aggregation in ("simple", "first"):
        compare(folder, aggregation, awkward_texts(2000, seed=1))


def test_texts_at_the_limit_and_beyond_it(tmp_path: Path) -> None:
    """The last text is so long that only its beginning is read for the places of tokens."""
    folder = with_tags(tmp_path / "model", SCHEMES["BIO"])
    words = [" ".join(["time"] * count) for count in range(LIMIT - 4, LIMIT + 3)]
    compare(folder, "simple", [*words, "naïve café " * 2000, "x" * 3000, f"a {'é' * 3000} b c"])


def test_words_of_several_windows_are_decided_where_most_is_around_them(tmp_path: Path) -> None:
    """The entities of a long text are those of all its windows."""
    folder = with_tags(tmp_path / "model", SCHEMES["plain"])
    texts = ["short one", " ".join(f"word{number} and" for number in range(40))]
    asked: dict[str, Any] = {"outputs": ("entities",), "chunk_overlap": 8}
    short, long = rows_of(folder, texts, long_text="mean_of_chunks", **asked)
    windows = rows_of(folder, texts, long_text="chunks", **asked)
    assert short == windows[0]
    assert len(windows) > 5
    stops = [entity["char_stop"] for entity in long["entities"]]
    assert stops == sorted(stops)
    assert stops[-1] > len(texts[1]) - 20
    for entity in long["entities"]:
        assert texts[1][entity["char_start"] : entity["char_stop"]].strip()
    alone = {(each["char_start"], each["label"]) for row in windows[1:] for each in row["entities"]}
    assert sum((each["char_start"], each["label"]) in alone for each in long["entities"]) > len(stops) / 2


def test_a_text_without_tokens_has_no_entities() -> None:
    spec = OutputSpec(names=("entities",), tags=Tags(("O", "B-X"), "simple"))
    none = PlacedTokens(np.zeros(0, PLACE), np.array([0, 0]))
    found = entities.join(np.zeros((0, 3), np.float32), none, spec)
    [column] = entities.store(found, spec)
    assert column.to_pylist() == [[], []]
    assert outputs.finite({"entities": found}).tolist() == [True, True]


def test_a_score_that_is_not_finite_is_seen_even_without_an_entity() -> None:
    spec = OutputSpec(names=("entities",), tags=Tags(("O", "B-X"), "simple"))
    places = np.zeros(3, PLACE)
    placed = PlacedTokens(places, np.array([1, 2]))
    values = np.array([[0, 0.9, 0.8], [0, 0.9, 0.8], [np.nan, np.nan, np.nan]], np.float32)
    assert outputs.finite({"entities": entities.join(values, placed, spec)}).tolist() == [True, False]


def table_of(rows: list[list[tuple[str, float, int, int]]]) -> pa.Table:
    spec = OutputSpec(names=("entities",), tags=Tags(("O", "B-X", "B-Y"), "simple"))
    [field] = entities.fields(spec)
    names = [each.name for each in entities.FIELDS]
    values = [[dict(zip(names, each, strict=True)) for each in row] for row in rows]
    return pa.table([pa.array(values, field.type), [5] * len(rows)], ["entities", "n_tokens"])


def test_each_label_counts_a_row_once() -> None:
    table = table_of([[("X", 1, 0, 1), ("X", 1, 2, 3), ("Y", 1, 4, 5)], [], [("X", 1, 0, 1)]])
    assert sorted(entities.labels(table).to_pylist()) == ["X", "X", "Y"]


def test_undecided_tokens_excuse_other_entities() -> None:
    spec = OutputSpec(names=("entities",), tags=Tags(("O", "B-X", "B-Y"), "simple"))
    records = np.zeros(3, entities.RECORD)
    records["label"], records["score"], records["char_stop"] = [0, 0, 0], 0.6, 1
    records["margin"] = [0.3, 0.001, 0.3]
    fresh = Ragged(records, np.array([1, 1, 1]))
    stored = table_of([[("Y", 0.6, 0, 1)], [("Y", 0.6, 0, 1)], [("X", 0.6, 0, 1)]])
    assert entities.unlike(stored, fresh, spec, "float32").tolist() == [True, False, False]
