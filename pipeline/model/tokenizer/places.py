"""Finds the place of each token in its text, by the real tokenizer: only it knows what its rules change.

The ids come from the words (`tokenizer`), as always. Each text is tokenized once more, and its tokens must
have the same ids: so each place belongs to its token. Of a text that is cut, only a beginning that has all
tokens is read.

Shapes: N texts, T tokens of all texts, V tokens without special ones, C windows.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Encoding

from pipeline.errors import ModelError, TokenizerError
from pipeline.model.batching import TokenBatch
from pipeline.model.token_places import NOWHERE, PLACE, Places, nowhere
from pipeline.model.tokenizer.chunks import SPACES, Chunks
from pipeline.model.tokenizer.tokenizer import BYTES_PER_TOKEN, CHECKED, Tokenizer
from pipeline.ragged import Ints, offsets_from_lengths

BLOCK_CHARACTERS = 1 << 18
"""Characters of the texts that are tokenized at once: their encodings take some 100 times that in bytes."""
BETWEEN = "\0"
"""What is put between texts: no space."""
Bools = npt.NDArray[np.bool_]


def places_of(tokenizer: Tokenizer, texts: pa.Array, tokens: TokenBatch, prefix: str) -> Places:
    """Returns the place of each token of texts, (T,), in the text without its prefix.

    Args:
        tokens: those of each text with the prefix before it.

    Raises:
        TokenizerError: the tokenizer gives other tokens when it is asked for their places.
    """
    lengths_N = tokens.lengths - tokenizer.specials
    found = [
        _places(tokenizer, strings, lengths_N[first : first + len(strings)])
        for first, strings in _blocks(texts, prefix)
    ]
    body_T = _body(tokenizer, tokens.offsets)
    if not np.array_equal(
        np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in found)]), tokens.ids[body_T]
    ):
        what = "the tokenizer gives other tokens when it is asked for their places"
        raise TokenizerError(what, tokenizer.name, hint="drop entities and tokens from model.outputs")
    places_T = nowhere(len(tokens.ids))
    places_T[body_T] = np.concatenate([nowhere(0), *(places for _, places in found)])
    return _behind(places_T, len(prefix)) if prefix else places_T


def places_in_windows(
    tokenizer: Tokenizer, texts: pa.Array, found: Chunks, prefix: str, one_row: bool
) -> Places:
    """Returns the place of each token of windows, (T,), in the text that they are windows of.

    Args:
        texts: those of all windows.  found: the windows of `texts`.
        one_row: the windows of a text become one row: a token that two of them have is kept in one of both.

    Raises:
        TokenizerError: the tokenizer gives other tokens when it is asked for their places.
    """
    places_T = places_of(tokenizer, _windows(texts, found), found.tokens, prefix)
    before_T = np.repeat(found.char_start, found.tokens.lengths).astype(np.int32)
    is_text_T = places_T["start"] != NOWHERE
    for name in ("start", "stop"):
        places_T[name][is_text_T] += before_T[is_text_T]
    if one_row:
        places_T["start"][~_decided(places_T, found)] = NOWHERE
    return places_T


def refuse_without_places(tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer that does not say where its tokens stand.

    Raises:
        ModelError: the places of the tokens of a probe are not in it, or not in its order; or the tokenizer
            keeps the end of a long text, where `places_of` looks for its beginning.
    """
    if tokenizer.side == "left":
        hint = "set truncation_side to right there, or drop entities and tokens from model.outputs"
        raise ModelError("the tokenizer keeps the end of a long text", tokenizer.name, "left", hint)
    for text in CHECKED:
        offsets = np.array(tokenizer.backend.encode(text, add_special_tokens=False).offsets).reshape(-1, 2)
        start_V, stop_V = offsets.T
        inside = (start_V >= 0) & (start_V <= stop_V) & (stop_V <= len(text))
        if (
            not inside.all()
            or (np.diff(start_V) < 0).any()
            or (len(stop_V) and text.strip() and not stop_V.any())
        ):
            what = "the tokenizer does not say where its tokens stand in a text"
            hint = "drop entities and tokens from model.outputs, or name another checkpoint"
            raise ModelError(what, tokenizer.name, f"{offsets.tolist()[:4]} in {text!r}", hint)


def _blocks(texts: pa.Array, prefix: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of the first text of each block, and its texts with the prefix."""
    first, size, strings = 0, 0, list[str]()
    for number, text in enumerate(texts):
        strings.append(prefix + text.as_py())
        size += len(strings[-1])
        if size > BLOCK_CHARACTERS:
            yield first, strings
            first, size, strings = number + 1, 0, []
    if strings:
        yield first, strings


def _body(tokenizer: Tokenizer, offsets: Ints) -> Bools:
    """Tells which tokens are not special, (T,)."""
    body_T = np.ones(int(offsets[-1]), np.bool_)
    for at in range(len(tokenizer.before)):
        body_T[offsets[:-1] + at] = False
    for at in range(len(tokenizer.after)):
        body_T[offsets[1:] - 1 - at] = False
    return body_T


def _places(tokenizer: Tokenizer, strings: list[str], lengths_N: Ints) -> tuple[Ints, Places]:
    """Returns ids and places of the first tokens of texts, as many as `lengths` says, (V,) both."""
    found = list(zip(_encodings(tokenizer, strings, lengths_N), lengths_N.tolist(), strict=True))
    ids_V = np.fromiter(chain.from_iterable(each.ids[:length] for each, length in found), np.int64)
    numbers = chain.from_iterable(chain.from_iterable(each.offsets[:length]) for each, length in found)
    places_V = np.zeros(len(ids_V), PLACE)
    places_V["start"], places_V["stop"] = np.fromiter(numbers, np.int32).reshape(-1, 2).T
    places_V["joined"] = _joined(tokenizer, strings, ids_V, places_V, lengths_N)
    return ids_V, places_V


def _encodings(tokenizer: Tokenizer, strings: list[str], lengths_N: Ints) -> list[Encoding]:
    """Tokenizes texts, without special tokens; of a text that is cut, a beginning may do."""
    most = BYTES_PER_TOKEN * tokenizer.limit
    if not tokenizer.by_words or max(map(len, strings)) <= most:
        return tokenizer.placed(strings)
    return [
        _of_beginning(tokenizer, text, most) if len(text) > most and length == tokenizer.limit
        else tokenizer.placed([text])[0]
        for text, length in zip(strings, lengths_N.tolist(), strict=True)
    ]  # fmt: skip


def _of_beginning(tokenizer: Tokenizer, text: str, most: int) -> Encoding:
    """Tokenizes as much of a text as `limit` tokens need: what follows a space changes nothing before it."""
    while most < len(text):
        stop = max(text.rfind(space, 0, most) for space in SPACES) + 1
        beginning = text[:stop] if stop > most // 2 else _with_long_word(tokenizer, text, stop)
        [found] = tokenizer.placed([beginning])
        if len(found.ids) >= tokenizer.limit:
            return found
        most *= 4
    return tokenizer.placed([text])[0]


def _with_long_word(tokenizer: Tokenizer, text: str, start: int) -> str:
    """Returns a text up to the end of a long word, or as much of this word as `limit` tokens need."""
    stops = [stop for space in SPACES if (stop := text.find(space, start)) >= 0]
    return text[:start] + tokenizer.cutter.enough(text[start : min(stops, default=len(text))])


def _joined(
    tokenizer: Tokenizer, strings: list[str], ids_V: Ints, places_V: Places, lengths_N: Ints
) -> Bools:
    """Tells which tokens go on with the word before, (V,), as transformers' pipeline decides it.

    WordPiece: the vocabulary writes the token longer or shorter than the text, even if that is because the
    rules have changed the text. Others: no space stands before the token, or at its start.
    """
    start_V = places_V["start"].astype(np.int64)
    if tokenizer.marks_parts_of_words:
        joined_V = tokenizer.written_lengths[ids_V] != places_V["stop"] - start_V
    else:
        letters = "".join(f"{text}{BETWEEN}" for text in strings)
        is_space = np.frombuffer(letters.encode("utf-32-le"), np.uint32) == ord(" ")
        first_N = offsets_from_lengths(np.array([len(text) + 1 for text in strings]))[:-1]
        at_V = start_V + np.repeat(first_N, lengths_N)
        joined_V = (start_V > 0) & ~is_space[at_V] & ~is_space[np.maximum(at_V - 1, 0)]
    return np.asarray(joined_V & ~tokenizer.is_unknown(ids_V))


def _behind(places_T: Places, characters: int) -> Places:
    """Returns the places in a text without some characters at its start; a token of them alone is nowhere."""
    of_text_T = (places_T["start"] != NOWHERE) & (places_T["stop"] > characters)
    moved_T = places_T.copy()
    moved_T["start"] = np.where(of_text_T, np.maximum(places_T["start"] - characters, 0), NOWHERE)
    moved_T["stop"] = np.where(of_text_T, places_T["stop"] - characters, 0)
    return moved_T


def _windows(texts: pa.Array, found: Chunks) -> pa.Array:
    """Returns the texts of windows."""
    windows, number, text = [], -1, ""
    for of, start, stop in np.stack([found.text, found.char_start, found.char_stop]).T.tolist():
        if of != number:
            number, text = of, texts[of].as_py()
        windows.append(text[start:stop])
    return pa.array(windows, pa.large_string())


def _decided(places_T: Places, found: Chunks) -> Bools:
    """Tells which tokens of windows are kept, (T,): each in the window that has more of the text around it.

    Windows of one text share whole words, so both have the same tokens there. The cut is in the middle of
    these tokens, moved to the next word.
    """
    kept_T = np.ones(len(places_T), np.bool_)
    start_T, offsets = places_T["start"], found.tokens.offsets
    shared_C = (found.text[1:] == found.text[:-1]) & (found.char_start[1:] < found.char_stop[:-1])
    for window in np.flatnonzero(shared_C).tolist():
        begin, middle, end = (int(each) for each in offsets[window : window + 3])
        cut = _cut(places_T[begin:middle], int(found.char_start[window + 1]), int(found.char_stop[window]))
        kept_T[begin:middle] &= start_T[begin:middle] < cut
        kept_T[middle:end] &= start_T[middle:end] >= cut
    return kept_T


def _cut(places: Places, shared_from: int, stop: int) -> int:
    """Returns the character from which the next window decides, in the part that it shares with a window."""
    shared = places[places["start"] >= shared_from]
    first = (len(shared) + 1) // 2
    while first < len(shared) and shared["joined"][first]:
        first += 1
    return int(shared["start"][first]) if first < len(shared) else stop
