"""Names the files of a model's folder, and tells which of them are fetched."""

from pipeline.model.sentence_transformers import SETTINGS

TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.txt", "tokenizer_config.json")
PICKLE = "pytorch_model.bin"
PICKLES = [PICKLE, f"0_*/{PICKLE}"]
"""Where a repository has a pickle: that of a sentence-transformers folder may lie with its transformer."""
INDEX = "model.safetensors.index.json"
_NEEDED = ("config.json", *SETTINGS, *TOKENIZER_FILES, "model.safetensors", "model-*.safetensors", INDEX)
FETCHED = [
    "modules.json", "config_sentence_transformers.json", *_NEEDED, *(f"[0-9]_*/{name}" for name in _NEEDED)
]  # fmt: skip
ELSEWHERE = ["[!0-9]*/*", "?[!_]*/*", "*/*/*"]
"""Patterns of files that are never fetched: other folders, and folders inside folders. In them `*` matches
`/`, too."""
