"""Tells by a folder's `tokenizer_class` whether its files alone decide the ids, and refuses other classes.

Owns the list of classes that are known exactly. With `tokenizer.json` any class is: that file states all
steps. A class that cuts words by another program (MeCab, Jieba), or by code of its own, has no such file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import parsing
from pipeline.errors import ModelError

ALBERT = ("AlbertTokenizer",)
BERT = (
    "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer",
    "LxmertTokenizer", "SqueezeBertTokenizer", "LayoutLMTokenizer", "RealmTokenizer", "RetriBertTokenizer",
)  # fmt: skip
"""Classes that are BERT's under another name."""
MPNET = ("MPNetTokenizer",)
"""BERT's with other special tokens."""
KNOWN: Mapping[str, tuple[str, ...]] = {"spiece.model": ALBERT, "vocab.txt": (*BERT, *ALBERT, *MPNET)}
"""The classes whose ids a file alone decides. A Chinese ALBERT may name ALBERT's class beside a `vocab.txt`,
which that class can't read."""


def settings_of(folder: Path) -> Mapping[str, Any]:
    """Returns tokenizer_config.json; empty if there is none.

    Raises:
        ModelError: it can't be read.
    """
    path, hint = folder / "tokenizer_config.json", "fetch it again"
    try:
        found = parsing.json_value(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ModelError("can't be read as JSON", str(path), str(error), hint) from None
    if not isinstance(found, dict):
        raise ModelError("is not a JSON object", str(path), type(found).__name__, hint)
    return found


def class_of(folder: Path) -> tuple[str | None, Path]:
    """Returns the tokenizer's class without `Fast`, and the file that names it; None if none does."""
    for path, values in (
        (folder / "tokenizer_config.json", settings_of(folder)),
        (folder / "config.json", _config(folder)),
    ):
        if name := values.get("tokenizer_class"):
            return str(name).removesuffix("Fast"), path
    return None, folder


def own_code(folder: Path) -> str | None:
    """Returns the code of its own that the folder names for its tokenizer; None if it names none."""
    found = settings_of(folder).get("auto_map")
    named = found.get("AutoTokenizer") if isinstance(found, dict) else found
    parts = [str(each) for each in named if each] if isinstance(named, list) else [named] if named else []
    return str(parts[-1]) if parts else None


def refuse_unknown(folder: Path, file: str) -> None:
    """Refuses a class whose ids a file alone does not decide.

    Args:
        file: the tokenizer's file, `spiece.model` or `vocab.txt`.

    Raises:
        ModelError: the class is not known exactly.
    """
    hint = "save its tokenizer.json beside it, if the class has one, or name another checkpoint"
    if code := own_code(folder):
        where = str(folder / "tokenizer_config.json")
        raise ModelError("the tokenizer is code of its own, which is never run", where, code, hint)
    name, path = class_of(folder)
    if name is not None and name not in KNOWN[file]:
        what = f"{file} alone does not decide the ids of its tokenizer_class"
        raise ModelError(what, str(path), name, hint)


def _config(folder: Path) -> Mapping[str, Any]:
    """Returns config.json as far as it can be read: its own errors are told elsewhere."""
    try:
        found = parsing.json_value((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
