"""Tokenizes texts to exactly the ids of the checkpoint's real tokenizer, many times as fast.

Owns the steps of a text: it is split at whitespace, each distinct word is tokenized once in the process's
life (`word_cache`, `by_word`), and the text's ids are gathered from its words'. A tokenizer that can't work
word by word is used as it is. Texts are read only as far as `max_tokens` certainly reach.

Cost: 20 ns a byte for known words. A block of texts takes 30 times its bytes while it is tokenized.

Shapes: N texts, W words, T token ids.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from pipeline import telemetry
from pipeline.errors import ModelError, TokenizerError
from pipeline.model.batching import TokenBatch
from pipeline.model.checkpoint import Checkpoint, resolve
from pipeline.model.tokenizer.blocks import BLOCK_BYTES, blocks
from pipeline.model.tokenizer.by_word import Cutter, why_not_by_word
from pipeline.model.tokenizer.hf import load_backend, named_failures, truncation_side
from pipeline.model.tokenizer.vocabulary import PROBES, UNKNOWN, check_vocabulary, without_needless
from pipeline.model.tokenizer.word_cache import (
    LONGEST,
    PackedIdRanges,
    WordCache,
    Words,
    counts,
    distinct,
    split,
)
from pipeline.ragged import (
    Bytes,
    Ints,
    flat_indices,
    interleave,
    offsets_from_lengths,
    text_array,
    text_bytes,
)

BYTES_PER_TOKEN = 8
"""Bytes per token that are read of a long text at first; most texts need 4 to 5."""


PAIR = ("a b", "c")
"""The pair of texts whose ids must equal the real tokenizer's."""
CHECKED = (
    *PROBES,
    "a [MASK] b[CLS]c <unk>",
    "Ünïcödé \u00a0 e\u0301 \u200d",
    "1,000, 9, !!!! ``x''",
    "x" * 80,
    "",
)
"""Probes whose ids must equal the real tokenizer's before the fast path is trusted."""


class Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        model: a checkpoint, or its folder, Hub id, or `albert-mini`.
        max_tokens: the most ids of a text that are kept, special tokens included.
        cache_words: the most distinct words that are remembered.
        cache_bytes: the most bytes of their text and ids.

    Raises:
        ModelError: the folder has no tokenizer, or one that does not belong to its weights.
    """

    def __init__(
        self,
        model: Checkpoint | str | Path,
        max_tokens: int = 512,
        *,
        cache_words: int = 1 << 21,
        cache_bytes: int = 64 << 20,
    ) -> None:
        checkpoint = model if isinstance(model, Checkpoint) else resolve(str(model))
        self.name = checkpoint.name
        self.max_tokens = max_tokens
        self.dtype = np.dtype(np.uint16 if checkpoint.size("vocab_size") <= 1 << 16 else np.int32)
        self.cache = WordCache(self.dtype, cache_words, cache_bytes)
        self.backend = without_needless(load_backend(checkpoint.folder, checkpoint.rules), checkpoint)
        with named_failures("the tokenizer fails at our probes", str(checkpoint.folder)):
            self.side = truncation_side(checkpoint.folder, self.backend)
            self.backend.no_padding()  # a tokenizer.json may pad and cut as its last user did
            self.backend.no_truncation()
            check_vocabulary(self.backend, checkpoint)
            self.before, self.after = _frame(self.backend)
            self.limit = max_tokens - self.specials
            self._unknown = [self.backend.token_to_id(name) for name in UNKNOWN]
            self._truncate()
            why = self._why_whole() or self._first_difference()
        self.by_words = why is None
        if why:
            telemetry.event("tokenizer.slow", model=checkpoint.name, reason=why)

    @property
    def specials(self) -> int:
        """Returns the number of special tokens around each text."""
        return len(self.before) + len(self.after)

    def is_unknown(self, ids_T: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Tells which ids stand for text that the vocabulary lacks, (T,)."""
        return np.isin(ids_T, [each for each in self._unknown if each is not None])

    def _truncate(self) -> None:
        """Lets the real tokenizer keep only `max_tokens` of a text."""
        self.backend.enable_truncation(self.max_tokens, direction=self.side)

    def _why_whole(self) -> str | None:
        """Returns why texts can't be read word by word, from their start on; None if they can."""
        return "it truncates on the left" if self.side == "left" else why_not_by_word(self.backend)

    def _first_difference(self) -> str | None:
        """Switches to word by word if all probes get the same ids; otherwise returns the reason not to."""
        probes = pa.array(CHECKED)
        real = self._as_it_is(probes)
        self.backend.no_truncation()
        self.cutter = Cutter(self.backend, self.limit)
        fast = joined(self._by_words(probes, BLOCK_BYTES), self.dtype)
        self.cache.hits = self.cache.misses = 0
        if np.array_equal(fast.ids, real.ids) and np.array_equal(fast.offsets, real.offsets):
            return None
        self._truncate()
        return "probes differ"

    def encode(self, texts: pa.Array | pa.ChunkedArray) -> TokenBatch:
        """Returns the token ids of each text; `texts` are strings without nulls.

        Raises:
            TokenizerError: the tokenizer can't cut one of them.
        """
        parts: list[TokenBatch] = []
        for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
            with self._failing_texts():
                if self.by_words:
                    parts += self._by_words(chunk, BYTES_PER_TOKEN * self.max_tokens)
                else:
                    parts += [self._as_it_is(block) for block in blocks(chunk, BLOCK_BYTES)]
        return joined(parts, self.dtype)

    @property
    def pair_specials(self) -> int:
        """Returns the number of special tokens in and around each pair of texts."""
        return self.specials + len(self.after)

    def encode_pairs(self, firsts: pa.Array, seconds: pa.Array) -> TokenBatch:
        """Returns the token ids of each pair of texts, `[CLS] first [SEP] second [SEP]`.

        A pair that is too long loses tokens at the end of its longer text first, as in the library.

        Raises:
            TokenizerError: the tokenizer can't cut one of them.
        """
        pair = self.encode(firsts), self.encode(seconds)
        sizes_2N = np.stack([each.lengths - self.specials for each in pair])
        kept_2N = self._longest_first(sizes_2N, firsts, seconds)
        pool = np.concatenate([each.ids for each in pair] + [np.array(self.before + self.after, self.dtype)])
        firsts_at, seconds_at, specials_at = np.cumsum([0, *(len(each.ids) for each in pair)])
        frame = len(self.before), len(self.after)
        count = len(firsts)
        starts, lengths = np.empty((count, 5), np.int64), np.empty((count, 5), np.int64)
        starts[:, 0], lengths[:, 0] = specials_at, frame[0]
        for part, (at, batch) in enumerate(zip((firsts_at, seconds_at), pair, strict=True)):
            starts[:, 1 + 2 * part] = at + batch.offsets[:-1] + frame[0]
            lengths[:, 1 + 2 * part] = kept_2N[part]
            starts[:, 2 + 2 * part], lengths[:, 2 + 2 * part] = specials_at + frame[0], frame[1]
        ids = pool[flat_indices(starts.reshape(-1), lengths.reshape(-1))]
        truncated = np.asarray((kept_2N < sizes_2N).any(axis=0) | pair[0].truncated | pair[1].truncated)
        second = frame[0] + kept_2N[0] + frame[1]
        return TokenBatch(ids, offsets_from_lengths(lengths.sum(axis=1)), truncated, second)

    def _longest_first(self, sizes_2N: Ints, firsts: pa.Array, seconds: pa.Array) -> Ints:
        """Returns how many tokens of both texts of each pair are kept, (2, N)."""
        room = self.max_tokens - self.pair_specials
        shorter_N = sizes_2N.min(axis=0)
        is_longer_N = sizes_2N[0] > sizes_2N[1]
        if room % 2:  # one token more for the longer text, of which only the beginning was cut
            for at in np.flatnonzero((shorter_N > room) & ~is_longer_N).tolist():
                is_longer_N[at] = len(self.bare(firsts[at].as_py())) > len(self.bare(seconds[at].as_py()))
        few_N = np.minimum(shorter_N, room // 2)
        kept_2N = np.where(is_longer_N, np.stack([room - few_N, few_N]), np.stack([few_N, room - few_N]))
        kept: Ints = np.where(sizes_2N.sum(axis=0) > room, kept_2N, sizes_2N)
        return kept

    def refuse_other_pairs(self) -> None:
        """Refuses a tokenizer that joins two texts in another way.

        Raises:
            ModelError: its ids or token types of a pair are not those of `encode_pairs`.
        """
        hint = "name another checkpoint, or drop text_pair_column"
        if self.side == "left":
            raise ModelError(
                "pairs of texts lose tokens on the right", self.name, "truncation_side left", hint
            )
        ours = self.encode_pairs(*(pa.array([text], pa.large_string()) for text in PAIR))
        theirs = self.backend.encode(*PAIR)
        second = 0 if ours.second is None else int(ours.second[0])
        types = [int(place >= second) for place in range(len(ours.ids))]
        if ours.ids.tolist() != theirs.ids or types != theirs.type_ids:
            what = "the tokenizer does not join two texts as [CLS] first [SEP] second [SEP]"
            raise ModelError(what, self.name, " ".join(theirs.tokens), hint)

    def _failing_texts(self) -> AbstractContextManager[None]:
        return named_failures("the tokenizer can't cut a text", self.name, TokenizerError)

    def bare(self, text: str) -> list[int]:
        """Returns all ids of a text from the real tokenizer, without special tokens."""
        if not self.by_words:
            self.backend.no_truncation()
        try:
            with self._failing_texts():
                ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        finally:
            if not self.by_words:
                self._truncate()
        return ids

    def placed(self, texts: list[str]) -> list[Encoding]:
        """Tokenizes texts by the real tokenizer, without special tokens; its encodings have tokens' places.

        A tokenizer that can't work word by word may leave out tokens after `max_tokens`.
        """
        with self._failing_texts():
            encodings: list[Encoding] = self.backend.encode_batch(texts, add_special_tokens=False)
        return encodings

    @property
    def marks_parts_of_words(self) -> bool:
        """Tells whether the vocabulary marks tokens that go on with a word, as WordPiece does."""
        return bool(getattr(self.backend.model, "continuing_subword_prefix", None))

    @cached_property
    def written_lengths(self) -> Ints:
        """Returns the number of characters of each token as the vocabulary writes it."""
        written = {id_: token for token, id_ in self.backend.get_vocab().items()}
        return np.array([len(written.get(id_, "")) for id_ in range(max(written) + 1)])

    def words(self, text_B: Bytes) -> tuple[Ints, Ints, Ints]:
        """Returns the words of one text, (words,) each: their numbers of ids, their first bytes, their ends.

        A number of `limit` or more may be less than the word has. For a tokenizer that can't work word by
        word, the whole text is one word.
        """
        if not self.by_words:
            return np.array([self.limit + 1]), np.zeros(1, np.int64), np.array([len(text_B)])
        text = text_array(text_B, np.zeros(1, np.int64), np.array([len(text_B)]))
        words, _ = split(text)
        starts = words.starts - 1  # after the space that `split` puts before each text
        with self._failing_texts():
            return counts(self._spans(words)), starts, starts + words.lengths

    def _as_it_is(self, texts: pa.Array) -> TokenBatch:
        """Tokenizes complete texts by the real tokenizer."""
        encodings = self.backend.encode_batch_fast(texts.to_pylist())
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = np.fromiter(chain.from_iterable(each.ids for each in encodings), self.dtype, lengths.sum())
        truncated = np.fromiter((bool(each.overflowing) for each in encodings), np.bool_, len(encodings))
        return TokenBatch(ids, offsets_from_lengths(lengths), truncated)

    def _by_words(self, texts: pa.Array, max_bytes: int) -> Iterator[TokenBatch]:
        """Tokenizes word by word; reads `max_bytes` of each text, more only if those yield too few ids."""
        for block in blocks(texts, max_bytes):
            words, first_N, cut_N = _words(block, max_bytes)
            batch = self._gather(self._spans(words), first_N)
            unsure_N = cut_N & ~batch.truncated
            if unsure_N.any():
                more = joined(self._by_words(block.filter(pa.array(unsure_N)), 4 * max_bytes), self.dtype)
                batch = _replaced(batch, unsure_N, more)
            yield batch

    def _spans(self, words: Words) -> PackedIdRanges:
        """Tokenizes the words that the cache lacks; returns the place of each word's ids in it, (W,)."""
        self.cache.begin_block()
        span_W = self.cache.find(words)
        missing = np.flatnonzero(span_W == 0)
        is_long = words.lengths[missing] > LONGEST
        short, long = missing[~is_long], missing[is_long]
        while len(short):
            first, which = distinct(words.take(short))
            new = words.take(short[first])
            spans = self.cache.add(new, *self.cutter.cut(new.strings()), keep=True)
            span_W[short] = spans[which]
            short = short[which < 0]
        if len(long):  # last, because nothing can be kept after them
            new = words.take(long)
            span_W[long] = self.cache.add(new, *self.cutter.cut_long(new.strings()), keep=False)
        return span_W

    def _gather(self, span_W: PackedIdRanges, first_N: Ints) -> TokenBatch:
        """Gathers texts' ids from those of their words; text i has the words `first[i]` to `first[i + 1]`."""
        count_W = counts(span_W)
        before_W = offsets_from_lengths(count_W)
        begin_N, total_N = before_W[first_N[:-1]], np.diff(before_W[first_N])
        truncated_N = total_N > self.limit
        if truncated_N.any():
            reached_W = before_W[:-1] - np.repeat(begin_N, np.diff(first_N))
            count_W = np.clip(self.limit - reached_W, 0, count_W)
        return self._framed(self.cache.ids(span_W, count_W), np.minimum(total_N, self.limit), truncated_N)

    def _framed(
        self, body_T: npt.NDArray[Any], lengths_N: Ints, truncated_N: npt.NDArray[np.bool_]
    ) -> TokenBatch:
        """Puts the special tokens around each text."""
        offsets = offsets_from_lengths(lengths_N + len(self.before) + len(self.after))
        ids_T = np.empty(offsets[-1], self.dtype)
        is_body_T = np.ones(len(ids_T), np.bool_)
        for places, special in (
            *((offsets[:-1] + at, each) for at, each in enumerate(self.before)),
            *((offsets[1:] - at, each) for at, each in enumerate(reversed(self.after), 1)),
        ):
            ids_T[places], is_body_T[places] = special, False
        ids_T[is_body_T] = body_T
        return TokenBatch(ids_T, offsets, truncated_N)


def _frame(backend: Backend) -> tuple[list[int], list[int]]:
    """Returns the special tokens before and after a text."""
    bare = backend.encode("a", add_special_tokens=False).ids
    framed = backend.encode("a").ids
    at = next((at for at in range(len(framed)) if framed[at : at + len(bare)] == bare), 0)
    return framed[:at], framed[at + len(bare) :]


def _words(texts: pa.Array, max_bytes: int) -> tuple[Words, Ints, npt.NDArray[np.bool_]]:
    """Splits the first `max_bytes` of texts: the words, their number before each text, which texts go on."""
    _, offsets = text_bytes(texts)
    cut_N = np.diff(offsets) > max_bytes
    if not cut_N.any():
        return *split(texts), cut_N
    binary = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    words, first_N = split(pc.binary_slice(texts.cast(binary), 0, max_bytes))
    # The last word of a text that goes on may go on, too.
    whole_W = np.ones(len(words), np.bool_)
    whole_W[first_N[1:][cut_N & (np.diff(first_N) > 0)] - 1] = False
    return words.take(whole_W), offsets_from_lengths(whole_W)[first_N], cut_N


def _replaced(batch: TokenBatch, which_N: npt.NDArray[np.bool_], others: TokenBatch) -> TokenBatch:
    """Returns the batch with the texts of `others` in the places of `which`."""
    stay_T = np.repeat(~which_N, batch.lengths)
    stay = (batch.ids[stay_T], batch.lengths[~which_N])
    ids_T, lengths_N = interleave(which_N, (others.ids, others.lengths), stay)
    truncated_N = batch.truncated.copy()
    truncated_N[which_N] = others.truncated
    return TokenBatch(ids_T, offsets_from_lengths(lengths_N), truncated_N)


def joined(batches: Iterable[TokenBatch], dtype: np.dtype[Any]) -> TokenBatch:
    """Joins several batches into one."""
    parts = [TokenBatch(np.zeros(0, dtype), np.zeros(1, np.int64), np.zeros(0, np.bool_)), *batches]
    lengths = np.concatenate([part.lengths for part in parts])
    ids, truncated = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "truncated")
    )
    return TokenBatch(ids, offsets_from_lengths(lengths), truncated)
