"""Makes folders with only a tokenizer's files, and tokenizes texts with the real tokenizer and ours."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer as Backend

from pipeline.model.checkpoint import Checkpoint
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import PACKAGED

REAL = Path(os.environ.get("ALBERT_BASE_V2", Path(__file__).parents[2] / "shared" / "albert-base-v2"))
"""Google's vocabulary of 30,000 pieces, as `spiece.model`; not part of this repository."""
HAN = "的一是不了人我在有他这为之大来以个中上们你好世界"
WORDS = [
    "un",
    "##know",
    "##n",
    "hello",
    "world",
    "!",
    ",",
    ".",
    "a",
    "b",
    "##b",
    "cafe",
    "café",
    "3",
    "##14",
    "é",
]


def real_folder() -> Path:
    """Returns the folder of the real vocabulary, or skips the test and says why."""
    if not (REAL / "spiece.model").exists():
        pytest.skip(f"no real ALBERT vocabulary at {REAL}: set ALBERT_BASE_V2")
    return REAL


def make_folder(folder: Path, rows: int, **files: str) -> Checkpoint:
    """Makes a checkpoint without weights: `tokenizer_json="..."` becomes tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "albert", "vocab_size": rows, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name.replace("_json", ".json").replace("_txt", ".txt")).write_text(content)
    return Checkpoint(folder.name, folder)


def edited(folder: Path, **parts: Any) -> Checkpoint:
    """Edits albert-mini's tokenizer.json: replaces some parts; a function gets the present part."""
    tokenizer = json.loads((PACKAGED / "tokenizer.json").read_text())
    for name, part in parts.items():
        tokenizer[name] = part(tokenizer[name]) if callable(part) else part
    rows = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    return make_folder(folder, rows, tokenizer_json=json.dumps(tokenizer))


def wordpiece(folder: Path, more: Sequence[str] = (), **settings: Any) -> Checkpoint:
    """Makes a folder with only a vocab.txt, as Chinese ALBERTs have it."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *HAN]
    letters = [chr(code) for code in range(ord("c"), ord("z") + 1)]
    tokens += [*letters, *(f"##{letter}" for letter in letters), *more]
    return make_folder(
        folder, len(tokens), vocab_txt="\n".join(tokens), tokenizer_config_json=json.dumps(settings)
    )


def expected(checkpoint: Checkpoint, texts: list[str], max_tokens: int) -> list[tuple[list[int], bool]]:
    """Returns by the real tokenizer each text's ids, and whether tokens were dropped."""
    backend = truncating(load_backend(checkpoint.folder, checkpoint.rules), max_tokens)
    return [(encoding.ids, bool(encoding.overflowing)) for encoding in backend.encode_batch_fast(texts)]


def assert_same(checkpoint: Checkpoint, max_tokens: int, texts: list[str]) -> None:
    """Checks that our tokenizer works word by word, and gives the real one's ids."""
    ours = Tokenizer(checkpoint, max_tokens)
    assert ours.by_words
    for text, mine, real in zip(
        texts, got(ours, texts), expected(checkpoint, texts, max_tokens), strict=True
    ):
        assert mine == real, repr(text)


def truncating(backend: Backend, max_tokens: int) -> Backend:
    backend.no_padding()
    backend.enable_truncation(max_tokens)
    return backend


def got(tokenizer: Tokenizer, texts: list[str] | pa.ChunkedArray) -> list[tuple[list[int], bool]]:
    """Returns the same by our tokenizer."""
    batch = tokenizer.encode(pa.array(texts, pa.string()) if isinstance(texts, list) else texts)
    ids = [
        batch.ids[start:stop].tolist() for start, stop in zip(batch.offsets, batch.offsets[1:], strict=False)
    ]
    return list(zip(ids, batch.truncated.tolist(), strict=True))
