"""Tokenizes texts, or each chunk of long ones."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import telemetry
from pipeline.errors import TokenizerError
from pipeline.model.batching import TokenBatch
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.tokenizer.chunks import Chunks, chunk_texts, prefixed
from pipeline.model.tokenizer.places import places_in_windows, places_of
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.schema import parts_of

Tokens = tuple[TokenBatch, Chunks | None]
"""The token ids of each text, or of each chunk of the texts."""


Tokenize = Callable[[pa.Array], Tokens]


def tokenized(texts: pa.Array, tokenizer: Tokenizer, recipe: EmbeddingSpec) -> Tokens:
    """Returns the token ids of each text or pair of texts, or of each chunk of the texts.

    If an output of the recipe asks for them, the tokens have their places in the complete text.

    Raises:
        TokenizerError: the tokenizer can't cut one of them.
    """
    if pa.types.is_struct(texts.type):
        first, second = parts_of(texts)
        return tokenizer.encode_pairs(prefixed(first, recipe.prefix), second), None
    if recipe.long_text == "truncate":
        tokens = tokenizer.encode(prefixed(texts, recipe.prefix))
        if recipe.of_tokens:
            tokens = replace(tokens, places=places_of(tokenizer, texts, tokens, recipe.prefix))
        return tokens, None
    found = chunk_texts(tokenizer, texts, recipe.chunk_overlap, recipe.prefix)
    if recipe.of_tokens:
        places = places_in_windows(tokenizer, texts, found, recipe.prefix, one_row=not recipe.chunked)
        return replace(found.tokens, places=places), found
    return found.tokens, found


def tokenize_all(texts: pa.Array, tokenize: Tokenize) -> tuple[Tokens, npt.NDArray[np.bool_]]:
    """Returns the tokens of the texts that can be cut, and a mask of these texts, (N,): as a rule all."""
    cut_N = np.ones(len(texts), np.bool_)
    try:
        return tokenize(texts), cut_N
    except TokenizerError as error:
        telemetry.warn("texts that can't be tokenized", reason=error)
    cut_N[_uncut(texts, tokenize)] = False
    return tokenize(texts.filter(pa.array(cut_N))), cut_N


def _uncut(texts: pa.Array, tokenize: Tokenize) -> list[int]:
    """Returns the numbers of the texts that can't be cut; searches by halves, because most texts can be."""
    try:
        tokenize(texts)
    except TokenizerError:
        if len(texts) == 1:
            return [0]
        half = len(texts) // 2
        behind = _uncut(texts.slice(half), tokenize)
        return _uncut(texts.slice(0, half), tokenize) + [half + each for each in behind]
    return []
