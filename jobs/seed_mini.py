"""Make the seeded, untrained `albert-mini`: a vocabulary learnt from the docstrings, random weights.

python -m jobs.seed_mini pipeline/models/albert-mini
"""

import io
import json
import sys
import sysconfig
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import AlbertConfig, AlbertModel

from jobs.docstrings import docstrings
from pipeline.reference import load_backend

SPECIALS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def main(folder: Path) -> None:
    """Write config.json, model.safetensors (fp16) and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    _train_vocabulary(folder / "spiece.model", size=8000)
    settings = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True, "keep_accents": False}
    _write_json(folder / "tokenizer_config.json", settings | SPECIALS | {"model_max_length": 512})
    load_backend(folder).save(str(folder / "tokenizer.json"))
    (folder / "spiece.model").unlink()  # tokenizer.json says it all, and says it without room for doubt
    config = AlbertConfig(
        vocab_size=8000, embedding_size=128, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=4, hidden_act="gelu_new",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    weights = AlbertModel(config, add_pooling_layer=False).state_dict()
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / "model.safetensors")
    config.save_pretrained(folder)


def _train_vocabulary(path: Path, size: int) -> None:
    texts = (row["docstring"].lower() for row in docstrings(Path(sysconfig.get_path("stdlib"))))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.splitlines() if line.strip()),
        model_writer=model, vocab_size=size, model_type="unigram", character_coverage=0.9999,
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="<pad>", unk_piece="<unk>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"], minloglevel=2, num_threads=1,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
