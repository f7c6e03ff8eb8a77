"""Builds the tokenizer of a checkpoint's folder with the real library: it is slow, but its ids are right.

Owns the definition of the right ids. `tokenizer.json` decides if it exists. A `spiece.model` alone is built
as Google's ALBERT cuts it (`google_albert`), with only the special tokens as added tokens (transformers 5
adds `( ) " - .` and more, and so cuts 3.14 in three). `vocab.txt` is BERT WordPiece (the Chinese ALBERTs).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sentencepiece import sentencepiece_model_pb2  # type: ignore[attr-defined,unused-ignore]
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from pipeline import telemetry
from pipeline.config.sections import NO_RULES, TokenizerRules
from pipeline.errors import ENDS, ModelError
from pipeline.model.tokenizer import google_albert
from pipeline.model.tokenizer.classes import MPNET, class_of, refuse_unknown, settings_of

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SPECIALS_OF_MPNET = ("<pad>", "[UNK]", "<s>", "</s>", "<mask>")
UNIGRAM = 1
"""sentencepiece's number of the model that ALBERT has."""


def load_backend(folder: Path, rules: TokenizerRules = NO_RULES) -> Backend:
    """Builds the real tokenizer of a checkpoint's folder.

    Args:
        rules: rules of the config, which come before the folder's.

    Raises:
        ModelError: there is none, or it can't be read, or its ids can't be known.
    """
    settings = settings_of(folder)
    for name, build in (
        ("tokenizer.json", _from_json),
        ("spiece.model", _from_spiece),
        ("vocab.txt", _from_vocab),
    ):
        path = folder / name
        if path.exists():
            _refuse(path, rules)
            try:
                return build(path, _stated(settings, rules))
            except (ModelError, *ENDS):
                raise
            except BaseException as error:  # the parsers of three libraries raise bare Exceptions, and panics
                raise ModelError(
                    "the tokenizer can't be read", str(path), str(error), hint="fetch it again"
                ) from error
    raise ModelError(
        "no tokenizer.json, spiece.model or vocab.txt here",
        str(folder),
        hint="put the checkpoint's tokenizer there",
    )


def truncation_side(folder: Path, backend: Backend) -> Literal["left", "right"]:
    """Returns the side on which texts that are too long lose tokens.

    Raises:
        ModelError: tokenizer_config.json states another side, or tokenizer.json states one that is not there.
    """
    side = settings_of(folder).get("truncation_side")
    where, hint = str(folder / "tokenizer_config.json"), "set it to left or right there"
    if side not in (None, "left", "right"):
        raise ModelError("truncation_side is unknown", where, repr(side), hint)
    own = (backend.truncation or {}).get("direction", "right")
    if side is None and own != "right":
        # transformers takes it from there; earlier versions of this program did not.
        raise ModelError(
            "truncation_side is missing, and tokenizer.json truncates on the left", where, hint=hint
        )
    return "left" if side == "left" else "right"


def _refuse(path: Path, rules: TokenizerRules) -> None:
    """Refuses a tokenizer whose ids can't be known, and rules that its file states itself."""
    if path.name != "tokenizer.json":
        refuse_unknown(path.parent, path.name)
    elif rules.stated:
        what, got = "tokenizer.json states its own rules", ", ".join(rules.stated)
        raise ModelError(what, "model.tokenizer", got, hint="drop them, or change tokenizer.json")


def _stated(settings: Mapping[str, Any], rules: TokenizerRules) -> dict[str, Any]:
    """Returns the folder's settings with the config's rules in their place."""
    found = dict(settings)
    if rules.lower_case is not None:
        found["do_lower_case"] = rules.lower_case
    if rules.keep_accents is not None:
        found |= {"keep_accents": rules.keep_accents, "strip_accents": not rules.keep_accents}
    return found


@contextmanager
def named_failures(what: str, where: str, kind: type[ModelError] = ModelError) -> Iterator[None]:
    """Turns what the tokenizers library raises into a `ModelError`."""
    try:
        yield
    except BaseException as error:
        if not _is_of_library(error):
            raise
        raise kind(
            what, where, str(error) or repr(error), "correct tokenizer.json, or fetch it again"
        ) from error


def _is_of_library(error: BaseException) -> bool:
    """Tells whether the library raised it: a bare Exception, or a panic, which in pyo3 is a BaseException."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _from_json(path: Path, _: Mapping[str, Any]) -> Backend:
    backend = Backend.from_file(str(path))
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    if model.get("type") == "Unigram":
        # `from_file` misreads the last bit of long decimals, which decides ties: for example in 63 times `=`.
        # Python reads scores as they are written, and so does transformers.
        scores = [(piece, score) for piece, score in model["vocab"]]
        backend.model = models.Unigram(scores, model.get("unk_id"), model.get("byte_fallback", False))
    return backend


def _from_spiece(path: Path, settings: Mapping[str, Any]) -> Backend:
    """Puts ALBERT's own preprocessing around its Unigram model (google-research/albert, tokenization.py)."""
    proto = sentencepiece_of(path)
    _refuse_other_sentencepiece(proto, path)
    # Google's ALBERT cuts "9," after the digits; a score that never wins does the same to such pieces.
    pieces = [(piece.piece, piece.score - 100 * _ends_in_number_comma(piece.piece)) for piece in proto.pieces]
    trained = proto.trainer_spec
    backend = Backend(models.Unigram(pieces, unk_id=trained.unk_id, byte_fallback=trained.byte_fallback))
    backend.normalizer = google_albert.normalizer(
        proto.normalizer_spec.precompiled_charsmap,
        proto.normalizer_spec.name,
        lower_case=bool(settings.get("do_lower_case", True)),
        keep_accents=bool(settings.get("keep_accents", False)),
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    telemetry.event("tokenizer.as_google", path=path, differs_from="AutoTokenizer", at="( ) - . and more")
    _add_specials(backend, _specials(settings, ("<pad>", trained.unk_piece, "[CLS]", "[SEP]", "[MASK]")))
    return backend


def sentencepiece_of(path: Path) -> Any:
    """Parses a sentencepiece model."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(path.read_bytes())
    return proto


def _refuse_other_sentencepiece(proto: Any, path: Path) -> None:
    """Refuses a sentencepiece model of a kind that no ALBERT has."""
    trained = proto.trainer_spec
    for what, wrong in (
        ("is not a Unigram model", trained.model_type != UNIGRAM),
        ("marks the ends of words, not their starts", trained.treat_whitespace_as_suffix),
        ("does not mark a text's first word", not proto.normalizer_spec.add_dummy_prefix),
    ):
        if wrong:
            hint = "save its tokenizer.json beside it, or name another checkpoint"
            raise ModelError(what, str(path), "add_dummy_prefix, model_type or the like", hint)


def _specials(settings: Mapping[str, Any], defaults: tuple[str, ...]) -> tuple[str, ...]:
    """Returns pad, unk, cls, sep and mask, as the folder names them."""
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return tuple(
        _content(settings.get(name)) or default for name, default in zip(names, defaults, strict=True)
    )


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _ends_in_number_comma(piece: str) -> bool:
    return len(piece) >= 2 and piece[-1] == "," and piece[-2].isdigit()


def _from_vocab(path: Path, settings: Mapping[str, Any]) -> Backend:
    backend = Backend(models.WordPiece.from_file(str(path), unk_token="[UNK]"))
    backend.normalizer = bert_normalizer(settings)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _add_specials(backend, SPECIALS_OF_MPNET if class_of(path.parent)[0] in MPNET else SPECIALS)
    return backend


def bert_normalizer(settings: Mapping[str, Any]) -> normalizers.Normalizer:
    """Returns the steps of BERT's basic tokenizer, which drops marks of category Mn."""
    return normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )


def _add_specials(backend: Backend, names: tuple[str, ...]) -> None:
    """Makes pad, unk, cls, sep and mask special; a pad or mask that the vocabulary lacks is never needed."""
    _, unk, cls, sep, mask = names
    missing = [name for name in (unk, cls, sep) if backend.token_to_id(name) is None]
    if missing:
        raise ModelError(
            "the vocabulary lacks special tokens", got=", ".join(missing), hint="fetch the tokenizer again"
        )
    present = [name for name in dict.fromkeys(names) if backend.token_to_id(name) is not None]
    backend.add_special_tokens(
        [AddedToken(name, lstrip=name == mask, special=True, normalized=False) for name in present]
    )
    specials = [(name, backend.token_to_id(name)) for name in (cls, sep)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=specials
    )
