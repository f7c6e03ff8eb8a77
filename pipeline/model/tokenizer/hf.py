"""Builds the tokenizer of a checkpoint's folder with the real library: it is slow, but its ids are right.

Owns the definition of the right ids. `tokenizer.json` decides if it exists. A `spiece.model` alone is built
as Google's ALBERT cuts it, with only the special tokens as added tokens (transformers 5 adds `( ) " - .` and
more, and so cuts 3.14 in three). `vocab.txt` is BERT WordPiece (the Chinese ALBERTs).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2  # type: ignore[attr-defined,unused-ignore]
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from pipeline import parsing, telemetry
from pipeline.errors import ENDS, ModelError
from pipeline.model.checkpoint import Checkpoint

PROBES = (
    "A quick brown fox jumps over 3.14 lazy dogs.",
    "The city's name (in 1905) was different.",
    "你好, 世界",
)
"""Texts of which a usable tokenizer knows at least one."""
UNKNOWN = ("<unk>", "[UNK]")
"""The names of the token for what a vocabulary lacks."""


def load_backend(folder: Path) -> Backend:
    """Builds the real tokenizer of a checkpoint's folder.

    Raises:
        ModelError: there is none, or it can't be read.
    """
    settings = _settings(folder)
    if settings.get("truncation_side", "right") != "right":
        raise ModelError(
            "truncation_side must be right",
            str(folder / "tokenizer_config.json"),
            hint="set it to right there",
        )
    for name, build in (
        ("tokenizer.json", _from_json),
        ("spiece.model", _from_spiece),
        ("vocab.txt", _from_vocab),
    ):
        path = folder / name
        if path.exists():
            try:
                return build(path, settings)
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


def _settings(folder: Path) -> Mapping[str, Any]:
    path, hint = folder / "tokenizer_config.json", "fetch it again"
    try:
        found = parsing.json_value(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ModelError("can't be read as JSON", str(path), str(error), hint) from None
    if not isinstance(found, dict):
        raise ModelError("is not a JSON object", str(path), type(found).__name__, hint)
    return found


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
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(path.read_bytes())
    # Google's ALBERT cuts "9," after the digits; a score that never wins does the same to such pieces.
    pieces = [(piece.piece, piece.score - 100 * _ends_in_number_comma(piece.piece)) for piece in proto.pieces]
    backend = Backend(models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=False))
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    telemetry.event("tokenizer.as_google", path=path, differs_from="AutoTokenizer", at="( ) - . and more")
    _add_specials(backend, ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))
    return backend


def _ends_in_number_comma(piece: str) -> bool:
    return len(piece) >= 2 and piece[-1] == "," and piece[-2].isdigit()


def _from_vocab(path: Path, settings: Mapping[str, Any]) -> Backend:
    backend = Backend(models.WordPiece.from_file(str(path), unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _add_specials(backend, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    return backend


def _add_specials(backend: Backend, names: tuple[str, ...]) -> None:
    missing = [name for name in names if backend.token_to_id(name) is None]
    if missing:
        raise ModelError(
            "the vocabulary lacks special tokens", got=", ".join(missing), hint="fetch the tokenizer again"
        )
    backend.add_special_tokens(
        [AddedToken(name, lstrip=name == "[MASK]", special=True, normalized=False) for name in names]
    )
    specials = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)


def check_vocabulary(backend: Backend, checkpoint: Checkpoint) -> None:
    """Checks that weights and tokenizer are of one checkpoint: wrong ids silently give wrong vectors.

    Raises:
        ModelError: they are not, or the tokenizer knows none of our probes.
    """
    size, rows = backend.get_vocab_size(), checkpoint.size("vocab_size")
    highest = max(backend.get_vocab().values()) + 1
    if highest > rows or size < rows // 2:
        raise ModelError(
            "tokenizer and weights are not of one checkpoint",
            checkpoint.name,
            f"{size} tokens for {rows} rows",
            hint="take both from one checkpoint",
        )
    shares = [_unknown_share(backend, probe) for probe in PROBES]
    if min(shares) > 0.5:
        raise ModelError(
            "the tokenizer knows none of our probes",
            checkpoint.name,
            f"{min(shares):.0%} unknown",
            hint="take tokenizer and weights from one checkpoint",
        )


def _unknown_share(backend: Backend, text: str) -> float:
    tokens = backend.encode(text, add_special_tokens=False).tokens
    return sum(token in UNKNOWN for token in tokens) / max(1, len(tokens))
