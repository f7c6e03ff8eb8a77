"""Cuts many words into Unigram pieces at once, along the path that `tokenizers` finds, ties included.

Owns the search for the best path (Viterbi). It takes one NumPy step for each depth of the trie, each byte of
the longest word and each piece of the word with most pieces, for any number of words: it pays for thousands.

Invariant: ids equal those of `tokenizers.models.Unigram`. Scores are added in float64 from left to right. The
first of equal paths wins (at one end: the longest last piece). Unknown characters in a row become one token.
sentencepiece's own library adds in float32, so it decides ties such as `! + !!!` and `!!! + !` differently.

Cost: 2 µs a word where `tokenizers` takes 17; the trie of 30,000 pieces is 21 MB.

Shapes: W words, B bytes of all words, P open paths through the trie, E edges (a piece at a place).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ragged import Ints, text_bytes

START = "▁"
MAX_TRIE_BYTES = 128 << 20
WORDS_AT_ONCE = 8192
"""Words that are cut at once: their edges fit a processor's cache."""


class Unigram:
    """A Unigram model, whose pieces are in the order of their ids.

    Raises:
        ValueError: the model's cuts would not be exact, or its trie is too large.
    """

    def __init__(self, pieces: Sequence[tuple[str, float]], unknown: int) -> None:
        ids = {piece.encode(): number for number, (piece, _) in enumerate(pieces) if piece}
        scores = np.array([score for _, score in pieces], np.float64)
        if not -np.inf < scores.min() < 0:
            # Otherwise a row of unknown characters could score above the piece that they spell.
            raise ValueError("scores are not log-probabilities")
        self.unknown = unknown
        self.scores = np.append(scores, scores.min() - 10.0)  # the last: a character that is not a piece
        self.class_of = _classes(ids)
        self._build(ids)

    def _build(self, ids: dict[bytes, int]) -> None:
        """Numbers the nodes of the trie: the root, other inner nodes, leaves, and one that means no path."""
        paths = dict.fromkeys(piece[:stop] for piece in ids for stop in range(len(piece) + 1))
        inner = {path[:-1] for path in paths if path}
        node_of = {path: node for node, path in enumerate(sorted(paths, key=lambda path: path not in inner))}
        self.leaf, self.width = len(inner), int(self.class_of.max()) + 1
        if self.leaf * self.width * 4 > MAX_TRIE_BYTES:
            raise ValueError("the vocabulary is too large for a trie")
        child = np.full((self.leaf, self.width), len(paths), np.int32)
        for path, node in node_of.items():
            if path:
                child[node_of[path[:-1]], self.class_of[path[-1]]] = node
        self.child = child.ravel()
        self.piece = np.full(len(paths) + 1, -1, np.int64)
        self.single = np.zeros(len(paths) + 1, np.bool_)
        for piece, number in ids.items():
            self.piece[node_of[piece]] = number
            self.single[node_of[piece]] = _WIDTH[piece[0]] == len(piece)

    def cut(self, words: pa.Array) -> tuple[Ints, Ints]:
        """Returns the ids of all words, and the number of each word's ids.

        `words` are normalised, not empty, and contain neither whitespace nor the sign that starts a word.
        """
        slices = [words.slice(at, WORDS_AT_ONCE) for at in range(0, len(words), WORDS_AT_ONCE)]
        parts = [self._cut(part) for part in slices] or [(np.zeros(0, np.int64),) * 2]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([counts for _, counts in parts])

    def _cut(self, words: pa.Array) -> tuple[Ints, Ints]:
        # The space after each word belongs to no piece, so no path through the trie leaves its word.
        start, end, nothing = (pa.scalar(text, words.type) for text in (START, " ", ""))
        data_B, offsets = text_bytes(pc.binary_join_element_wise(start, words, end, nothing))
        data_B = data_B[: offsets[-1]]
        first_B = np.repeat(offsets[:-1], np.diff(offsets))
        piece_B, from_B = self._best_paths(data_B, first_B)
        ends = _path_ends(from_B, first_B, offsets[1:] - 1)
        ids, words_of = piece_B[ends], first_B[ends]
        again = (ids[1:] == self.unknown) & (ids[:-1] == self.unknown) & (words_of[1:] == words_of[:-1])
        kept = np.concatenate([[True], ~again])
        return ids[kept], np.diff(np.searchsorted(ends[kept], offsets))

    def _best_paths(self, data_B: npt.NDArray[np.uint8], first_B: Ints) -> tuple[Ints, Ints]:
        """Returns the last piece of the best path from a word's start to each place, and its start."""
        start_E, end_E, piece_E = self._edges(data_B)
        column_E = (start_E - first_B[start_E]).astype(np.uint16)
        order = np.argsort(column_E, kind="stable")
        start_E, end_E, piece_E = start_E[order], end_E[order], piece_E[order]
        best_B = np.where(np.arange(len(data_B)) == first_B, 0.0, -np.inf)
        piece_B, from_B = np.zeros(len(data_B), np.int64), np.zeros(len(data_B), np.int64)
        stops = np.cumsum(np.bincount(column_E))
        for begin, stop in zip(np.append(0, stops), stops, strict=False):
            start, end, piece = start_E[begin:stop], end_E[begin:stop], piece_E[begin:stop]
            score = self.scores.take(piece) + best_B.take(
                start
            )  # edges of one column end at different places
            better = score > best_B.take(end)
            end = end[better]
            best_B[end], piece_B[end], from_B[end] = score[better], piece[better], start[better]
        piece_B[piece_B == len(self.scores) - 1] = self.unknown
        return piece_B, from_B

    def _edges(self, data_B: npt.NDArray[np.uint8]) -> tuple[Ints, Ints, Ints]:
        """Returns every piece at every place (start, end, id), and every character that is not a piece."""
        class_B = self.class_of[data_B]
        width_B = _WIDTH[data_B]
        begins = np.flatnonzero((width_B > 0) & (data_B != ord(" ")))
        known_B = np.zeros(len(data_B), np.bool_)
        edges = []
        start_P, node_P, depth = begins, self.child[class_B[begins]], 1
        while len(start_P):
            found = np.flatnonzero(self.piece.take(node_P) >= 0)
            start, node = start_P.take(found), node_P.take(found)
            edges.append((start, start + depth, self.piece.take(node)))
            known_B[start[self.single[node]]] = True
            alive = np.flatnonzero(node_P < self.leaf)
            start_P, row_P = start_P[alive], node_P[alive].astype(np.int64) * self.width
            node_P, depth = self.child.take(row_P + class_B.take(start_P + depth)), depth + 1
        strange = begins[~known_B[begins]]
        edges.append((strange, strange + width_B[strange], np.full(len(strange), len(self.scores) - 1)))
        starts, ends, pieces = zip(*edges, strict=True)
        return np.concatenate(starts), np.concatenate(ends), np.concatenate(pieces)


def _classes(ids: dict[bytes, int]) -> Ints:
    """Numbers the bytes that occur in pieces from 1, (256,); all others, and the space, are 0."""
    used = sorted(set(b"".join(ids)) - {ord(" ")})
    class_of = np.zeros(256, np.int64)
    class_of[used] = np.arange(1, len(used) + 1)
    return class_of


def _path_ends(from_B: Ints, first_B: Ints, at: Ints) -> Ints:
    """Returns the ends of the best paths' pieces, going back from the words' last places to their first."""
    taken_B = np.zeros(len(from_B), np.bool_)
    while len(at):
        taken_B[at] = True
        at = from_B[at]
        at = at[at != first_B[at]]
    return np.flatnonzero(taken_B)


_WIDTH = np.array([1] * 0x80 + [0] * 0x40 + [2] * 0x20 + [3] * 0x10 + [4] * 0x10, np.int64)
"""The number of bytes of the character that a byte begins, (256,); 0 if it begins none."""
