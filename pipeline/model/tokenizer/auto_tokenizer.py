"""Tells where our ids are not those of transformers' AutoTokenizer for a folder, with an example and why.

transformers itself is not needed: its rules (version 5) are stated here, one at a time, and each is tried on
a few texts. Where it differs from Google's ALBERT or from `tokenizer.json`, ours are the ids that the
checkpoint was trained on. Nothing here decides an id.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, models, normalizers
from tokenizers import Tokenizer as Backend

from pipeline.model.checkpoint import Checkpoint
from pipeline.model.tokenizer.by_word import steps
from pipeline.model.tokenizer.classes import ALBERT, BERT, class_of, own_code, settings_of
from pipeline.model.tokenizer.hf import bert_normalizer, load_backend, sentencepiece_of
from pipeline.model.tokenizer.vocabulary import PROBES, words_by_script

USUAL = ("3.14", "in 2005, 1,905,", *PROBES)
RARE = ("Été", "ΘΕΟΣ", "``a''", "3️⃣", "a\x1cb")
USER_DEFINED = 4
"""sentencepiece's number of the kind of pieces that are always taken whole."""


@dataclass(frozen=True)
class Difference:
    """A reason why AutoTokenizer gives other ids, with a text as an example, unless all texts differ."""

    why: str
    text: str = ""
    ours: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.text:
            return self.why
        return f"{self.why}: {self.text!r} is {' '.join(self.ours)} here, and {' '.join(self.theirs)} there"


def differences(checkpoint: Checkpoint) -> list[Difference]:
    """Returns the reasons why ids differ, each with an example; usually there is none."""
    folder = checkpoint.folder
    backend = load_backend(folder, checkpoint.rules)
    name = class_of(folder)[0]
    if code := own_code(folder):
        return [Difference(f"AutoTokenizer runs the folder's own code ({code}), if it is trusted")]
    if (folder / "tokenizer.json").exists():
        return _compared(backend, _of_json(backend, name or ALBERT[0], settings_of(folder)))
    if checkpoint.is_sentencepiece:
        return [*_overridden(checkpoint, backend), *_compared(backend, _of_spiece(checkpoint, backend))]
    if name in (None, *ALBERT):
        return [Difference("AutoTokenizer does not read vocab.txt unless tokenizer_class is BertTokenizer")]
    return _overridden(checkpoint, backend)


def _overridden(checkpoint: Checkpoint, backend: Backend) -> list[Difference]:
    """Compares with the folder's own rules, where the config has others."""
    stated = ", ".join(f"{key}: {str(value).lower()}" for key, value in checkpoint.rules.stated.items())
    if not stated:
        return []
    why = f"model.tokenizer ({stated}) is not known to AutoTokenizer"
    return _compared(backend, [(why, load_backend(checkpoint.folder))])


def _compared(backend: Backend, others: Iterable[tuple[str, Backend]]) -> list[Difference]:
    """Returns the first text that each of the others cuts otherwise."""
    words = [word for some in words_by_script(backend).values() for word in some[:10]]
    found = []
    for why, other in others:
        for text in (*USUAL, *words, *RARE):
            ours, theirs = (each.encode(text, add_special_tokens=False) for each in (backend, other))
            if ours.ids != theirs.ids:
                found.append(Difference(why, text, tuple(ours.tokens), tuple(theirs.tokens)))
                break
    return found


def _of_spiece(checkpoint: Checkpoint, backend: Backend) -> Iterator[tuple[str, Backend]]:
    """Yields our tokenizer of a lone `spiece.model`, with one rule of transformers instead of Google's."""
    proto = sentencepiece_of(checkpoint.folder / "spiece.model")
    own = [piece.piece for piece in proto.pieces if piece.type == USER_DEFINED]
    theirs = _copy(backend)
    theirs.add_tokens([AddedToken(piece, normalized=False) for piece in own])
    yield "AutoTokenizer takes the vocabulary's own symbols out of words", theirs
    theirs = _copy(backend)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    theirs.normalizer = _normalizer(settings_of(checkpoint.folder), charsmap)
    yield "AutoTokenizer drops vowel signs as if they were accents, and composes no letters again", theirs
    theirs = _copy(backend)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    theirs.model = models.Unigram(pieces, proto.trainer_spec.unk_id, False)
    yield "AutoTokenizer does not cut the comma off a number", theirs


def _of_json(backend: Backend, name: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Backend]]:
    """Yields what transformers builds of a tokenizer.json, if the class builds its own steps."""
    parts = json.loads(backend.to_str())
    kind, theirs = parts["model"]["type"], _copy(backend)
    if (name, kind) == (BERT[0], "WordPiece"):
        theirs.normalizer = bert_normalizer(settings)
    elif (name, kind) == (ALBERT[0], "Unigram"):
        own = [step for step in steps(parts["normalizer"]) if step["type"] == "Precompiled"]
        theirs.normalizer = _normalizer(
            settings, base64.b64decode(own[0]["precompiled_charsmap"]) if own else b""
        )
    else:
        return
    yield f"AutoTokenizer follows tokenizer_config.json by the rules of {name}, not tokenizer.json", theirs


def _normalizer(settings: Mapping[str, Any], charsmap: bytes) -> normalizers.Normalizer:
    """Returns the steps of transformers' AlbertTokenizer."""
    found: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        found += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        found.append(normalizers.Lowercase())
    return normalizers.Sequence(found + ([normalizers.Precompiled(charsmap)] if charsmap else []))


def _copy(backend: Backend) -> Backend:
    return Backend.from_str(backend.to_str())
