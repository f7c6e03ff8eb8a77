"""Cuts long texts into chunks of at most `max_tokens` tokens, which begin and end at words.

Owns the rule where chunks are cut. A chunk is a range of characters, and its tokens are those of that range
alone: tokenizing `text[char_start:char_stop]` gives them again. A word that is longer than a chunk is cut
between characters, and each part is a chunk of its own.

Shapes: N texts, C chunks, K words of one text.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.model.batching import TokenBatch
from pipeline.model.tokenizer.blocks import blocks
from pipeline.model.tokenizer.tokenizer import Tokenizer, joined
from pipeline.ragged import Bytes, Ints, text_array, text_bytes

SPACES = " \t\n\r"
"""The characters that separate words (`word_cache.split`)."""
CHARACTERS_PER_TOKEN = 8
"""The first guess for the length of a giant word's part."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """Chunks of N texts, in order.

    tokens: the ids of each chunk, special tokens included.  text: (C,) the number of its text.
    char_start, char_stop: (C,) its range in the text, in code points.
    """

    tokens: TokenBatch
    text: Ints
    char_start: Ints
    char_stop: Ints

    @property
    def numbers(self) -> Ints:
        """Returns the number of each chunk within its text, from 0: (C,)."""
        first = np.r_[True, self.text[1:] != self.text[:-1]] if len(self.text) else np.zeros(0, np.bool_)
        starts = np.flatnonzero(first)
        return np.arange(len(self.text)) - np.repeat(starts, np.diff(np.r_[starts, len(self.text)]))


def chunk_texts(tokenizer: Tokenizer, texts: pa.Array, overlap: int, prefix: str = "") -> Chunks:
    """Cuts texts into chunks.

    Args:
        texts: large_strings without nulls.
        overlap: the most tokens that neighbouring chunks share.
        prefix: a text that is put before each chunk; its tokens count.
    """
    parts, first = [], 0
    for block in blocks(texts):
        parts.append(_chunk_block(tokenizer, block, overlap, prefix, first))
        first += len(block)
    return Chunks(
        joined([part.tokens for part in parts], tokenizer.dtype),
        *(
            np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in parts)])
            for name in ("text", "char_start", "char_stop")
        ),
    )


def room(tokenizer: Tokenizer, prefix: str) -> int:
    """Returns the number of tokens that a prefix leaves for a text."""
    return tokenizer.limit - (len(tokenizer.bare(prefix)) if prefix else 0)


def _chunk_block(tokenizer: Tokenizer, texts: pa.Array, overlap: int, prefix: str, first: int) -> Chunks:
    data_B, offsets_N = text_bytes(texts)
    cut_N = tokenizer.encode(prefixed(texts, prefix)).truncated
    chunker = Chunker(tokenizer, overlap, prefix)
    ranges = [_whole(np.flatnonzero(~cut_N), offsets_N, texts)]
    for number in np.flatnonzero(cut_N).tolist():
        begin, end = offsets_N[number], offsets_N[number + 1]
        start_C, stop_C = np.array(list(chunker.cut(data_B[begin:end])), np.int64).reshape(-1, 2).T
        before_B = _characters_before(data_B[begin:end])
        text_C = np.full(len(start_C), number)
        ranges.append(
            np.stack([text_C, begin + start_C, begin + stop_C, before_B[start_C], before_B[stop_C]])
        )
    places_5C = np.concatenate(ranges, axis=1)
    text_C, start_C, stop_C, char_start_C, char_stop_C = places_5C[:, np.argsort(places_5C[0], kind="stable")]
    # Tokenized again: the words are cached by now, and each chunk's ids are certainly those of its own text.
    tokens = tokenizer.encode(prefixed(text_array(data_B, start_C, stop_C - start_C), prefix))
    return Chunks(tokens, first + text_C, char_start_C, char_stop_C)


def _whole(chosen: Ints, offsets_N: Ints, texts: pa.Array) -> Ints:
    """Returns text, bytes and characters of texts that are one chunk each, (5, chosen)."""
    characters = pc.utf8_length(texts.take(pa.array(chosen))).to_numpy(zero_copy_only=False)
    return np.stack([chosen, offsets_N[chosen], offsets_N[chosen + 1], np.zeros_like(chosen), characters])


def prefixed(texts: pa.Array, prefix: str) -> pa.Array:
    """Returns the texts with a prefix before each."""
    if not prefix:
        return texts
    return pc.binary_join_element_wise(pa.scalar(prefix, texts.type), texts, pa.scalar("", texts.type))


def _characters_before(data_B: Bytes) -> Ints:
    """Counts the code points that begin before each byte, (B + 1,): each byte but 10xxxxxx begins one."""
    before = np.zeros(len(data_B) + 1, np.int64)
    np.cumsum((data_B & 0xC0) != 0x80, out=before[1:])
    return before


class Chunker:
    """Cuts one long text at a time."""

    def __init__(self, tokenizer: Tokenizer, overlap: int, prefix: str) -> None:
        self._tokenizer, self._overlap, self._prefix = tokenizer, overlap, prefix
        self._limit = tokenizer.limit
        self._prefix_tokens = len(tokenizer.bare(prefix)) if prefix else 0
        # A prefix without a space at its end forms one word with the first word of a chunk.
        self._joins = bool(prefix) and prefix[-1] not in SPACES

    def cut(self, text_B: Bytes) -> Iterator[tuple[int, int]]:
        """Yields the first byte and the end of each chunk."""
        counts_K, start_K, stop_K = self._tokenizer.words(text_B)
        before = np.concatenate([[0], np.cumsum(counts_K)])
        first, last = 0, len(counts_K)
        while first < last:
            begin, stop = int(start_K[first]), int(stop_K[first])
            cost = self._prefix_tokens + int(counts_K[first])
            if self._joins and cost <= 2 * self._limit:
                cost = self._tokens(text_B[begin:stop].tobytes().decode())
            if cost > self._limit:
                yield from self._giant(text_B, begin, stop)
                first += 1
                continue
            end = int(np.searchsorted(before, before[first + 1] + self._limit - cost, "right")) - 1
            yield begin, int(stop_K[end - 1])
            if end == last:
                return
            shared = int(np.searchsorted(before, before[end] - self._overlap, "left"))
            first = min(max(shared, first + 1), end)

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.bare(self._prefix + text))

    def _giant(self, text_B: Bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yields the parts of one word that is longer than a chunk."""
        word = text_B[start:stop].tobytes().decode()
        place, begin = 0, start
        while place < len(word):
            size = self._fitting(word, place)
            yield begin, begin + len(word[place : place + size].encode())
            if place + size >= len(word):
                return
            step = max(1, size - size * self._overlap // self._limit)
            begin += len(word[place : place + step].encode())
            place += step

    def _fitting(self, word: str, place: int) -> int:
        """Returns how many characters from `place` on have tokens that fit; at least one."""
        size = min(len(word) - place, CHARACTERS_PER_TOKEN * self._limit)
        while size > 1:
            tokens = self._tokens(word[place : place + size])
            if tokens <= self._limit:
                return self._behind_a_space(word, place, size)
            room = self._limit - self._prefix_tokens
            size = max(1, min(size - 1, size * room // max(1, tokens - self._prefix_tokens)))
        return 1

    @staticmethod
    def _behind_a_space(word: str, place: int, size: int) -> int:
        """Ends a part after its last space, if any: a text may come as one word (`Tokenizer.words`)."""
        space = max(word.rfind(character, place + 1, place + size) for character in SPACES)
        return size if space < 0 or place + size == len(word) else space - place
