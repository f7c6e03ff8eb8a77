"""Checks that the model in the package is the one of its card, and that its vectors follow meaning."""

import hashlib
import json
import re

import numpy as np
import pyarrow as pa
from safetensors import safe_open

from pipeline.model.checkpoint import resolve
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import PACKAGED

CARD = (PACKAGED / "README.md").read_text()


def test_the_card_has_the_digest_of_every_file() -> None:
    told = dict(re.findall(r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|$", CARD, re.M))
    files = {path.name: path for path in PACKAGED.iterdir() if path.suffix in (".json", ".safetensors")}
    assert told == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_it_is_as_small_as_told() -> None:
    path = PACKAGED / "model.safetensors"
    assert path.stat().st_size <= 8_000_000
    with safe_open(path, framework="numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  (not a mapping)
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F16"}  # noqa: SIM118
    parameters = sum(int(np.prod(shape)) for shape in shapes)
    assert 3_000_000 <= parameters <= 4_000_000
    assert f"{parameters / 1e6:.2f} million parameters" in CARD


def test_its_tokenizer_has_no_user_defined_symbols() -> None:
    added = json.loads((PACKAGED / "tokenizer.json").read_text())["added_tokens"]
    assert [token["content"] for token in added] == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]


def test_nearer_in_meaning_is_nearer_in_space() -> None:
    triples = [
        ("a man plays the guitar", "someone is making music", "the stock market fell"),
        ("how do I copy a file?", "duplicate a document on disk", "the weather is nice today"),
        ("the cat sleeps on the sofa", "a kitten naps on the couch", "he repaired the engine"),
        ("parse a date from a string", "convert text to a datetime", "open a network socket"),
        ("the company reported losses", "the firm lost money", "children played in the park"),
    ]
    texts = [text for triple in triples for text in triple]
    vectors = Encoder("albert-mini").encode(
        Tokenizer(resolve("albert-mini")).encode(pa.array(texts, pa.large_string()))
    )
    for one, near, far in vectors.reshape(-1, 3, vectors.shape[1]):
        assert one @ near > one @ far + 0.1
