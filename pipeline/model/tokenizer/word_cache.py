"""Splits texts into words, and caches the token ids of each distinct word for the process's life.

Owns the definition of a word (a run without space, tab, LF and CR: exactly these), and the cache from a
word's bytes to its token ids: an open-addressing table in NumPy, which looks up all words of a block at once.

Invariant: a word is found only if its bytes are equal; hashes decide where to search, never what matches.
Their multiplier is drawn per process, so that nobody can craft texts that collide.
Cost: 30 ns to find a word; a cached word takes 20 bytes and its text and ids, and the table 8 to 16 more.

Shapes: W words, B bytes, R rows of the cache (row 0 is not a word), T token ids.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.ragged import Bytes, Ints, flat_indices, offsets_from_lengths, text_array, text_bytes

LONGEST = 128
"""Bytes of the longest word that is cached: longer ones are hardly ever repeated."""
_PADDING = 8
_LOW_BYTES = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
_MULTIPLIER, _REMIX = np.random.default_rng().integers(1 << 62, 1 << 63, 2, np.uint64) | np.uint64(1)


PackedIdRanges = npt.NDArray[np.uint64]
"""The places of words' ids, one number each: the place of the first id, the ids' number, the word's bytes."""
_BEGIN, _COUNT, _FIELD = np.uint64(32), np.uint64(16), np.uint64(0xFFFF)


@dataclass(frozen=True, slots=True)
class Words:
    """Words as places in a flat array of UTF-8, which ends in 8 bytes that belong to no word."""

    data: Bytes
    starts: Ints
    lengths: Ints
    hashes: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, which: npt.NDArray[Any] | slice) -> "Words":
        """Returns some of the words, over the same bytes."""
        return Words(self.data, self.starts[which], self.lengths[which], self.hashes[which])

    def strings(self) -> pa.Array:
        """Returns the words as Arrow strings."""
        return text_array(self.data, self.starts, self.lengths)


def split(texts: pa.Array) -> tuple[Words, Ints]:
    """Returns the words of all texts, and the number of words before each text, (texts + 1,)."""
    data_B, offsets = text_bytes(texts)
    lengths = np.diff(offsets)
    # A space before each text separates it from the text before.
    joined_B = np.full(lengths.sum() + len(lengths) + _PADDING, ord(" "), np.uint8)
    places = offsets_from_lengths(lengths + 1)
    inside_B = np.ones(len(joined_B), np.bool_)
    inside_B[places[:-1]] = inside_B[places[-1] :] = False
    joined_B[inside_B] = data_B[offsets[0] : offsets[-1]]
    outside_B = (joined_B == 0x20) | (joined_B == 0x0A) | (joined_B == 0x09) | (joined_B == 0x0D)
    edges = np.flatnonzero(outside_B[1:] != outside_B[:-1]) + 1
    starts_W, lengths_W = edges[0::2], edges[1::2] - edges[0::2]
    words = Words(joined_B, starts_W, lengths_W, _hashes(joined_B, starts_W, lengths_W))
    return words, np.searchsorted(starts_W, places)


def _hashes(data_B: Bytes, starts_W: Ints, lengths_W: Ints) -> npt.NDArray[np.uint64]:
    """Hashes words, (W,), without collisions within one length up to 8 bytes; longer words may collide."""
    hash_W: npt.NDArray[np.uint64] = _eight_bytes(data_B, starts_W, lengths_W) * _MULTIPLIER
    for offset in range(8, int(min(LONGEST, lengths_W.max(initial=0))), 8):
        rest = np.flatnonzero(lengths_W > offset)
        more = _eight_bytes(data_B, starts_W[rest] + offset, lengths_W[rest] - offset)
        mixed = hash_W[rest] ^ (hash_W[rest] >> np.uint64(29)) ^ (more * _REMIX)
        hash_W[rest] = mixed * _MULTIPLIER
    return hash_W


def counts(span_W: PackedIdRanges) -> Ints:
    """Returns the number of token ids of each word, (W,)."""
    return ((span_W >> _COUNT) & _FIELD).astype(np.int64)


def _spans(begin_W: Ints, counts_W: Ints, lengths_W: Ints) -> PackedIdRanges:
    # No text gets 65,535 ids, so a longer word's further ids are never needed, nor is its exact length.
    fields = (begin_W, np.minimum(counts_W, 0xFFFF), np.minimum(lengths_W, 0xFFFF))
    begin, count, length = (field.astype(np.uint64) for field in fields)
    return (begin << _BEGIN) | (count << _COUNT) | length


def distinct(words: Words) -> tuple[Ints, Ints]:
    """Returns the first of each distinct word, and each word's number among them, (W,); -1 for collisions."""
    _, first, which_W = np.unique(words.hashes, return_index=True, return_inverse=True)
    return first, np.where(_same(words, words.take(first[which_W])), which_W, -1)


class WordCache:
    """Token ids of distinct words, at most `max_words` of them and `max_bytes` of their text and ids.

    Words without room, and words that are not to be kept, are remembered until `begin_block`. There a full
    cache is also emptied: text drifts, and frequent words are back at once.
    """

    def __init__(self, dtype: np.dtype[Any], max_words: int, max_bytes: int) -> None:
        self.max_words, self.max_bytes = max_words, max_bytes
        self.hits = self.misses = self.renewals = 0
        bits = max(10, (2 * max_words - 1).bit_length())
        self._shift, self._last_slot = np.uint64(64 - bits), (1 << bits) - 1
        self._row_of_slot = np.zeros(1 << bits, np.int32)
        # Memory that is never written is never allocated: reserving all that the bounds allow costs nothing.
        self._hash_R, self._span_R = (_Column(max_words, np.dtype(np.uint64)) for _ in range(2))
        self._text_R = _Column(max_words, np.dtype(np.int32))
        self._text_B = _Column(max_bytes, np.dtype(np.uint8))
        self._ids_T = _Column(max_bytes // dtype.itemsize, dtype)
        self._clear()

    @property
    def words(self) -> int:
        """Returns the number of distinct words in the cache."""
        return self._hash_R.size - 1

    @property
    def used_bytes(self) -> int:
        """Returns the bytes of cached text and ids, which `max_bytes` bounds."""
        return self._text_B.size + self._kept_ids * self._ids_T.values.itemsize

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all cached data and of the table."""
        return int(self._row_of_slot.nbytes + self._hash_R.size * 20 + self.used_bytes)

    def begin_block(self) -> None:
        """Forgets what was remembered for one block only, or everything if the cache was full."""
        if self._full:
            self.renewals += 1
            self._clear()
        self._ids_T.size = self._kept_ids

    def find(self, words: Words) -> PackedIdRanges:
        """Returns the place of each word's ids, (W,); 0 for words that are not cached."""
        slot_W = (words.hashes >> self._shift).astype(np.int64)
        row_W = self._row_of_slot.take(slot_W)
        span_W = self._span_R.values.take(row_W)
        other = np.flatnonzero((row_W > 0) & ~self._hold(row_W, span_W, words))
        while len(other):
            slot_W[other] = (slot_W[other] + 1) & self._last_slot
            row = self._row_of_slot[slot_W[other]]
            span_W[other] = self._span_R.values[row]
            other = other[(row > 0) & ~self._hold(row, span_W[other], words.take(other))]
        found = int(np.count_nonzero(span_W))
        self.hits += found
        self.misses += len(span_W) - found
        return span_W

    def _hold(
        self, row_W: npt.NDArray[np.int32], span_W: PackedIdRanges, words: Words
    ) -> npt.NDArray[np.bool_]:
        """Tells whether each row holds the word beside it."""
        hold_W: npt.NDArray[np.bool_] = (self._hash_R.values.take(row_W) == words.hashes) & (
            (span_W & _FIELD) == words.lengths
        )
        long = np.flatnonzero(hold_W & (words.lengths > 8))
        rest = words.take(long)
        starts = self._text_R.values[row_W[long]].astype(np.int64)
        hold_W[long] = _same(Words(self._text_B.values, starts, rest.lengths, rest.hashes), rest)
        return hold_W

    def add(self, words: Words, ids_T: npt.NDArray[Any], counts_W: Ints, *, keep: bool) -> PackedIdRanges:
        """Adds distinct words that were not found; keeps them as far as there is room.

        Returns:
            (W,) the places of their ids.
        """
        begin_W = self._ids_T.size + offsets_from_lengths(counts_W)
        span_W = _spans(begin_W[:-1], counts_W, words.lengths)
        self._ids_T.append(ids_T)
        fitting = self._room_for(words, counts_W, begin_W[0]) if keep else 0
        self._full |= keep and fitting < len(words)
        if fitting:
            kept, first = words.take(slice(fitting)), self._hash_R.size
            self._hash_R.append(kept.hashes)
            self._span_R.append(span_W[:fitting])
            self._text_R.append(self._text_B.size + offsets_from_lengths(kept.lengths)[:-1])
            self._text_B.append(words.data[flat_indices(kept.starts, kept.lengths)])
            self._enter(kept.hashes, np.arange(first, first + fitting))
            self._kept_ids = int(begin_W[fitting])
        return span_W

    def _room_for(self, words: Words, counts_W: Ints, begin: int) -> int:
        """Returns how many of the words, from the first, can be kept."""
        if begin > self._kept_ids:
            return 0  # nothing can be kept after ids that will be forgotten
        bytes_W = np.cumsum(words.lengths + counts_W * self._ids_T.values.itemsize)
        room = int(np.searchsorted(bytes_W, self.max_bytes - self.used_bytes, "right"))
        return min(room, self.max_words - self.words)

    def _enter(self, hash_W: npt.NDArray[np.uint64], row_W: Ints) -> None:
        """Puts rows into the table, each into the first free slot from its hash on."""
        slot_W = (hash_W >> self._shift).astype(np.int64)
        while len(row_W):
            free = self._row_of_slot[slot_W] == 0
            self._row_of_slot[slot_W[free]] = row_W[free]
            lost = self._row_of_slot[slot_W] != row_W  # to an existing row, or to another new one
            slot_W, row_W = (slot_W[lost] + 1) & self._last_slot, row_W[lost]

    def ids(self, span_W: PackedIdRanges, counts_W: Ints) -> npt.NDArray[Any]:
        """Returns the first `counts` token ids of each word, one word after the other."""
        return self._ids_T.values.take(flat_indices((span_W >> _BEGIN).astype(np.int64), counts_W))

    def _clear(self) -> None:
        self._row_of_slot[:] = 0
        self._full, self._kept_ids = False, 0
        for column in (self._hash_R, self._span_R, self._text_R):
            column.values[0], column.size = 0, 1  # row 0 is not a word
        self._text_B.size = 0


class _Column:
    """An array that grows at its end; it is copied only if it outgrows its reserve."""

    def __init__(self, reserve: int, dtype: np.dtype[Any]) -> None:
        self.values = np.empty(reserve + _PADDING, dtype)
        self.size = 0

    def append(self, values: npt.NDArray[Any]) -> None:
        stop = self.size + len(values)
        if stop + _PADDING > len(self.values):
            self.values = np.concatenate(
                [self.values[: self.size], np.empty(stop + _PADDING, self.values.dtype)]
            )
        self.values[self.size : stop] = values
        self.size = stop


def _same(left: Words, right: Words) -> npt.NDArray[np.bool_]:
    """Tells which words are the same in both, (W,)."""
    same_W: npt.NDArray[np.bool_] = (left.hashes == right.hashes) & (left.lengths == right.lengths)
    for offset in range(0, int(right.lengths.max(initial=0)), 8):
        # Words of one length up to 8 bytes with equal hashes are equal.
        rest = np.flatnonzero(same_W & (right.lengths > max(offset, 8)))
        if not len(rest):
            break
        length = right.lengths[rest] - offset
        one = _eight_bytes(left.data, left.starts[rest] + offset, length)
        same_W[rest] = one == _eight_bytes(right.data, right.starts[rest] + offset, length)
    return same_W


def _eight_bytes(data_B: Bytes, at_W: Ints, lengths_W: Ints) -> npt.NDArray[np.uint64]:
    """Returns the next bytes of each word as a number, (W,): 8, or as many as the word has left."""
    at_any_place = np.ndarray(len(data_B) - 7, np.dtype("<u8"), data_B, strides=(1,))
    chunk_W: npt.NDArray[np.uint64] = at_any_place[at_W] & _LOW_BYTES[np.minimum(lengths_W, 8)]
    return chunk_W
