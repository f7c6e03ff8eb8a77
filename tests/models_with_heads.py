"""Makes checkpoints with heads: those of transformers, with random weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.model.tokenizer.hf import load_backend
from tests.conftest import PACKAGED

SIZES = {
    "embedding_size": 8, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "hidden_act": "gelu_new",
}  # fmt: skip


def with_classes(folder: Path, labels: Sequence[str], **config: Any) -> Path:
    """Makes an `AlbertForSequenceClassification` with the packaged tokenizer."""
    return _saved(folder, "AlbertForSequenceClassification", labels, **config)


def with_tags(folder: Path, tags: Sequence[str], **config: Any) -> Path:
    """Makes an `AlbertForTokenClassification` with the packaged tokenizer, of sentencepiece."""
    return _saved(folder, "AlbertForTokenClassification", tags, **config)


def chinese_with_tags(folder: Path, tags: Sequence[str]) -> Path:
    """Makes a `BertForTokenClassification` with a small WordPiece vocabulary; it cuts at Chinese letters."""
    from tests.tokenizers_of import wordpiece

    made = wordpiece(folder, strip_accents=True)
    backend = load_backend(made.folder)
    sizes = {**SIZES, "vocab_size": made.size("vocab_size"), "hidden_act": "gelu"}
    _saved(folder, "BertForTokenClassification", tags, **sizes)
    backend.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _saved(folder: Path, architecture: str, labels: Sequence[str], **config: Any) -> Path:
    import torch
    import transformers

    packaged = json.loads((PACKAGED / "config.json").read_text())
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: at for at, name in enumerate(labels)}}
    values = SIZES | {"vocab_size": packaged["vocab_size"]} | named | config
    torch.manual_seed(len(labels))
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**values))
    for name, tensor in model.named_parameters():
        # As large as in trained models: otherwise all texts would have nearly the same scores.
        scale = 0.1 if tensor.ndim == 1 or "embeddings" in name else 2 * tensor.shape[1] ** -0.5
        torch.nn.init.normal_(tensor, float("LayerNorm.weight" in name), scale)
    model.save_pretrained(folder)
    settings = json.loads((PACKAGED / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(json.dumps(_for_pairs()))
    return folder


def _for_pairs() -> dict[str, Any]:
    """Returns the packaged tokenizer with the form of pairs that trained ALBERTs have; it has none."""
    content: dict[str, Any] = json.loads((PACKAGED / "tokenizer.json").read_text())
    template = content["post_processor"]
    first = template["single"]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    return content | {"post_processor": template | {"pair": [*first, *second]}}


def change_config(folder: Path, **values: Any) -> Path:
    """Changes fields of a checkpoint's config.json; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder
