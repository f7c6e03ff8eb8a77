"""Checks that encoders by transformers give, in any batch, the vectors of one text at a time."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import pipeline
from pipeline.config.load import parse_config
from pipeline.config.sections import Model
from pipeline.dataset.identity import Identity
from pipeline.driver.run import run
from pipeline.errors import ExitCode, ModelError
from pipeline.model import checkpoint, encoder, families
from pipeline.model.by_transformers import geometry
from pipeline.model.check import usable_checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.encoder import Encoder
from pipeline.verify import verify
from tests.conftest import PACKAGED, read_dataset, texts
from tests.model.bert.test_bert import batch, one_by_one

Job = Callable[..., dict[str, Any]]
COMMON: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 70,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "pad_token_id": 0},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "deberta": {},
    "nomic_bert": {},
    "electra": {"embedding_size": 16},
    "eurobert": {"num_key_value_heads": 2, "pad_token_id": 0},
    "xlm-roberta-xl": {},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
}
"""Settings of each type beside the common ones; the last is a decoder, whose vectors some folders take."""


def made(folder: Path, kind: str, **settings: Any) -> tuple[Path, torch.nn.Module]:
    """Saves a model of random weights as transformers does; returns its folder, and the model."""
    config = transformers.AutoConfig.for_model(kind, **(COMMON | KINDS.get(kind, {}) | settings))
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    for parameter in model.parameters():  # none may be left out unseen
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder, model


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_one_text_at_a_time(kind: str, tmp_path: Path) -> None:
    folder, model = made(tmp_path / "model", kind)
    found = checkpoint.resolve(str(folder))
    found.check()
    assert found.engine == "transformers"
    longest = 70 - 2 * (kind == "xlm-roberta-xl")
    assert found.positions == longest
    tokens = batch([1, 2, longest, 5, 30, 31, 7, 1, longest - 4], 300)
    wanted = one_by_one(model, tokens)
    for packed in (64, 4096):
        vectors = Encoder(found, batch_tokens=packed).encode(tokens)
        assert np.abs(vectors - wanted).max() < 1e-5


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "albert", "mpnet"])
def test_a_native_type_gives_the_same_by_transformers(kind: str, tmp_path: Path) -> None:
    names = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48} if kind == "distilbert" else {}
    folder, _ = made(tmp_path / "model", kind, **names)
    ours, theirs = (checkpoint.resolve(str(folder), engine=each) for each in ("auto", "transformers"))
    assert (ours.engine, theirs.engine) == ("native", "transformers")
    assert ours.positions == theirs.positions
    assert ours.size("hidden_size") == theirs.size("hidden_size") == 32
    tokens = batch([3, 60, 12, 1], 300)
    both = [Encoder(each).encode(tokens) for each in (ours, theirs)]
    assert np.abs(both[0] - both[1]).max() < 1e-5


def test_the_engine_is_part_of_the_digest_unless_it_is_native(tiny: Path, job: Job) -> None:
    def identity(**model: str) -> Identity:
        config = parse_config(job(model={"name": str(tiny), **model}))
        return Identity.of(config, checkpoint.of_config(config.model))

    auto, native, theirs = identity(), identity(engine="native"), identity(engine="transformers")
    assert auto.vector_digest == native.vector_digest != theirs.vector_digest
    assert "model.engine" not in native.vector_fields
    assert theirs.vector_fields["model.engine"] == "transformers"
    assert theirs.dimension == native.dimension == 16


def test_what_decides_nothing_is_not_digested(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "model", "electra")
    before = checkpoint.resolve(str(folder)).digested
    edit(folder, transformers_version="1", architectures=["Other"], id2label={"0": "a"}, _name_or_path="x")
    assert checkpoint.resolve(str(folder)).digested == before
    edit(folder, hidden_act="relu")
    assert checkpoint.resolve(str(folder)).digested != before


def test_every_type_of_transformers_is_known_without_its_import() -> None:
    from transformers import CONFIG_MAPPING

    assert all(map(geometry.is_known, CONFIG_MAPPING.keys()))
    assert not geometry.is_known("my_bert")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "my_bert"}, "of a type that neither this program nor transformers has .*'my_bert'"),
        (
            {"model_type": "my_bert", "auto_map": {"AutoModel": "mine.Model"}},
            "config.json: needs code of its own, which is never run .got mine.Model.; name a checkpoint",
        ),
        ({"is_encoder_decoder": True}, "has a decoder beside its encoder .*'electra'"),
        ({"hidden_size": None}, "hidden_size must be a positive integer"),
        ({"max_position_embeddings": -1}, "max_position_embeddings must be a positive integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a positive integer, at most 1,000"),
        ({"intermediate_size": 10**12}, "intermediate_size must be a positive integer, at most"),
        (
            {"hidden_size": 10**7},
            "config.json: weights have another hidden_size .got 10000000.; config.json and",
        ),
        ({"vocab_size": 10**7}, "config.json: weights have another vocab_size .got 10000000."),
    ],
)
def test_what_can_not_run_is_refused_before_any_replica(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, _ = made(tmp_path / "model", "electra")
    edit(folder, **values)
    with pytest.raises(ModelError, match=message):
        checkpoint.resolve(str(folder)).check()


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "model", "electra")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no model.safetensors here; convert pytorch_model.bin"):
        checkpoint.resolve(str(folder), allow_pickle=True).check()


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "model", "electra")
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "encoder.layer.1.output.dense.weight"

    def refused(changed: dict[str, torch.Tensor], message: str) -> None:
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            Encoder(folder)

    refused({key: each for key, each in weights.items() if key != name}, f"weights are missing .got {name}")
    surplus = {"encoder.layer.7.output.dense.weight": weights[name].clone()}
    refused(weights | surplus, "weights are unexpected .got encoder.layer.7.output.dense.weight")
    refused(weights | {name: torch.zeros(3, 3)}, "transformers can't load it .*; fetch the checkpoint again")
    edit(folder, auto_map={"AutoModel": "mine.Model"})
    refused({key: each for key, each in weights.items() if key != name}, "code of its own .mine.Model.")
    save_file(weights | {"discriminator.head.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    edit(folder, auto_map={})
    Encoder(folder)  # a task's head does not matter


def test_a_model_that_mixes_texts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ElectraModel

    folder, _ = made(tmp_path / "model", "electra")
    real = ElectraModel.forward

    def without_mask(self: torch.nn.Module, attention_mask: torch.Tensor, **inputs: Any) -> Any:
        return real(self, **inputs)

    monkeypatch.setattr(ElectraModel, "forward", without_mask)
    with pytest.raises(ModelError, match="a text's vector depends on the other texts of its batch"):
        Encoder(folder)


def test_heads_are_for_native_encoders(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "model", "electra")
    edit(folder, architectures=["ElectraForSequenceClassification"])
    with pytest.raises(ModelError, match="no head of transformers makes the output classification here"):
        EmbeddingSpec.of(checkpoint.resolve(str(folder)), Model(outputs=("classification",)))


def test_native_is_asked_for_in_vain(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "model", "electra")
    with pytest.raises(ModelError, match="is a checkpoint of none of ALBERT, .*'electra'"):
        checkpoint.resolve(str(folder), engine="native").check()
    assert "electra" not in families.FAMILIES


def test_running_out_of_memory_shrinks_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = made(tmp_path / "model", "modernbert")
    tokens = batch([8] * 16, 300)
    replica = Encoder(folder, batch_tokens=64)
    forward = replica.model.model.forward

    def scarce(input_ids: torch.Tensor, **inputs: Any) -> Any:
        if input_ids.numel() > 16:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(replica.model.model, "forward", scarce)
    assert np.abs(replica.encode(tokens) - one_by_one(model, tokens)).max() < 1e-5
    assert replica.batch_tokens == 16


@pytest.fixture
def modern(tmp_path: Path) -> Path:
    """A ModernBERT with the packaged tokenizer."""
    rows = json.loads((PACKAGED / "config.json").read_text())["vocab_size"]
    folder, _ = made(tmp_path / "modern", "modernbert", vocab_size=rows)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((PACKAGED / name).read_bytes())
    return folder


@pytest.mark.parametrize("flow", ["here"], indirect=True)
def test_a_job_keeps_its_promises(
    job: Job, modern: Path, tmp_path: Path, flow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run, a resume of nothing, an audit that embeds again, and a vector that is not finite at first."""
    values = job(model={"name": str(modern)})
    config = parse_config(values)
    attempt, failed = encoder.Encoder._forward, []

    def once_wrong(self: Encoder, model: Any, unique: Any, batch_B: Any) -> torch.Tensor:
        found = attempt(self, model, unique, batch_B)
        if not failed:
            failed.append(True)
            found.of_texts[0] = torch.nan
        return found

    monkeypatch.setattr(encoder.Encoder, "_forward", once_wrong)
    ending = run(config, quiet=True)
    assert (ending.code, ending.summary["rows"], ending.summary["rejects"]) == (ExitCode.DONE, 60, 0)
    assert failed
    assert run(config, quiet=True).code == ExitCode.DONE
    manifest = pq.read_table(tmp_path / "out" / "manifest.parquet")
    assert f"transformers {transformers.__version__}" in manifest.column("software")[0].as_py()
    assert not verify.verify(str(tmp_path / "out"), 1.0, config).findings
    found = np.array(read_dataset(tmp_path / "out").column("embedding").to_pylist(), np.float32)
    assert np.abs(found - pipeline.Embedder(str(modern)).embed(texts(60))).max() < 1e-5


def test_only_replicas_of_such_models_import_transformers(modern: Path, tiny: Path, job: Job) -> None:
    """Neither planning, nor status, nor a native replica does."""
    code = """
import json, sys
from pipeline.cli import status, verify
from pipeline.config.load import parse_config
from pipeline.embed.encode import Encode
from pipeline.model.check import usable_checkpoint
for values in json.loads(sys.argv[1]):
    usable_checkpoint(parse_config(values))
assert not {"transformers", "torch"} & {*sys.modules}
from pipeline.model.encoder import Encoder
Encoder(values["model"]["name"])
assert "torch" in sys.modules and "transformers" not in sys.modules
print("ok")
"""
    jobs = [job(model={"name": str(folder)}) for folder in (modern, tiny)]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(jobs)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "ok", done.stderr
    assert usable_checkpoint(parse_config(jobs[0])).engine == "transformers"
