"""Checks that the driver refuses unusable checkpoints, without torch, and names the cause."""

import json
import os
import shutil
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.config.sections import TokenizerRules
from pipeline.errors import ExitCode, HubBusyError, ModelError
from pipeline.model import checkpoint
from pipeline.model.fetch import hub as hub_client
from tests.conftest import make_checkpoint
from tests.hub import hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_built_in_one_is_whole() -> None:
    found = checkpoint.resolve("albert-mini")
    found.check()
    assert len(found.match({name: shape for name, (_, shape) in found.stored().items()})) == 23


def test_a_folder_that_is_called_as_on_the_hub_is_taken_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pipeline")
    make_checkpoint(tmp_path / "albert" / "albert-base-v2")
    monkeypatch.chdir(tmp_path)
    checkpoint.resolve("albert/albert-base-v2").check()
    assert caplog.messages == [
        f"model.name is a folder here, so the Hub is not asked folder={tmp_path}/albert/albert-base-v2"
    ]
    checkpoint.resolve("./albert/albert-base-v2")
    assert len(caplog.messages) == 1


def test_equal_content_has_equal_digests_wherever_it_lies(tmp_path: Path, folder: Path) -> None:
    other = make_checkpoint(tmp_path / "other")
    changed = make_checkpoint(tmp_path / "changed", seed=1)
    digests = [checkpoint.resolve(str(path)).weights_digest for path in (folder, other, changed)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("prefix", ["", "albert."])
def test_weights_of_a_task_are_found_and_its_head_ignored(folder: Path, prefix: str) -> None:
    weights = {prefix + name: value for name, value in load_file(folder / "model.safetensors").items()}
    weights |= {"predictions.bias": np.zeros(3, np.float32), "albert.pooler.weight": np.zeros(3, np.float32)}
    save_file(weights, folder / "model.safetensors")
    checkpoint.resolve(str(folder)).check()


def test_wrong_weights_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    for changed, message in (
        ({key: value for key, value in weights.items() if key != name}, f"missing .*{name}"),
        (weights | {"surplus.weight": np.zeros(2, np.float32)}, "unexpected .*surplus.weight"),
        (weights | {name: np.zeros((3, 8), np.float32)}, r"of another shape .*\(3, 8\), not \(\d+, 8\)"),
    ):
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(ModelError, match=message):
            checkpoint.resolve(str(folder)).check()


@pytest.mark.parametrize(
    ("surplus", "values", "message"),
    [
        ("crf.transitions", {}, "weights of a CRF head are unexpected.*save it alone"),
        ("start_transitions", {}, "weights of a CRF head"),
        ("bilstm.weight_ih_l0", {}, "weights of something beside ALBERT are unexpected.*save it alone"),
        ("bilstm.weight", {"auto_map": {"AutoModel": "mine.Model"}}, r"code of its own \(mine.Model\)"),
        ("encoder.albert_layer_groups.1.x", {}, "not of one checkpoint: fetch both again"),
    ],
)
def test_weights_beside_the_encoder_are_called_what_they_are(
    folder: Path, surplus: str, values: dict[str, Any], message: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {surplus: np.zeros(2, np.float32)}, folder / "model.safetensors")
    edit_config(folder, **values)
    with pytest.raises(ModelError, match=message):
        checkpoint.resolve(str(folder)).check()


def test_what_config_json_leaves_out_has_the_defaults_of_transformers(tmp_path: Path) -> None:
    """A config.json of an old release states only what differs from the defaults."""
    sizes = {"embedding_size": 128, "max_position_embeddings": 512, "vocab_size": 30_000}
    folder = make_checkpoint(tmp_path / "short", **sizes)
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in sizes}))
    found = checkpoint.resolve(str(folder))
    found.check()
    assert {name: found.size(name) for name in sizes} == sizes


def test_a_pickle_on_the_hub_has_a_way_around_it(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    fetched = checkpoint.Checkpoint("some/albert", folder, "0" * 40)
    with pytest.raises(ModelError, match=r"set model.revision to refs/pr/N if.*, or set model.allow_pickle"):
        fetched.check()


def test_other_kinds_of_folders_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors here; name the folder"):
        checkpoint.resolve(str(folder)).check()
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="set model.allow_pickle if you trust"):
        checkpoint.resolve(str(folder)).check()
    edit_config(folder, model_type="electra")
    with pytest.raises(ModelError, match="is a checkpoint of none of ALBERT.*electra"):
        _ = checkpoint.resolve(str(folder), engine="native").config
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="can't be read"):
        _ = checkpoint.resolve(str(folder)).config


def test_only_the_files_that_count_are_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    zeros = {name: np.zeros_like(weight) for name, weight in weights.items()}
    before = checkpoint.resolve(str(folder)).weights_digest
    save_file(zeros, folder / "model_fp16.safetensors")
    assert checkpoint.resolve(str(folder)).weights_digest == before

    names = sorted(weights)
    (folder / "model.safetensors").unlink()
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for part, chosen in parts.items():
        save_file({name: weights[name] for name in chosen}, folder / part)
    index = {"weight_map": {name: part for part, chosen in parts.items() for name in chosen}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = checkpoint.resolve(str(folder))
    found.check()
    assert [path.name for path in found.weight_files] == list(parts)


def test_a_truncated_weight_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model.safetensors: can't be read as safetensors"):
        checkpoint.resolve(str(folder)).check()


@pytest.mark.parametrize("name", ["no/such/folder/here", "../nowhere", "no folder", "unknown/model"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="neither a folder|the Hub does not provide it"):
        checkpoint.resolve(name)


def test_a_busy_hub_is_asked_again_and_then_left_for_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = hub(monkeypatch, HTTPStatus.TOO_MANY_REQUESTS)
    with pytest.raises(HubBusyError, match="the Hub is too busy to answer.*run again") as caught:
        checkpoint.resolve("some/albert")
    assert caught.value.exit_code == ExitCode.RETRYABLE
    assert answered.total() >= 1 + len(hub_client.BUSY_PAUSES_SECONDS)


def test_a_hub_that_was_busy_is_believed_when_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = hub(monkeypatch, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.NOT_FOUND)
    with pytest.raises(ModelError, match="the Hub does not provide it") as caught:
        checkpoint.resolve("some/albert")
    assert caught.value.exit_code == ExitCode.CONFIG
    assert set(answered) == {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.NOT_FOUND}


def test_planning_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, pipeline.cli; print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_hub_id_is_pinned_to_its_commit(tmp_path: Path, folder: Path) -> None:
    """The Hub's cache is laid out by hand, because the tests have no Hub."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--some--albert"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    code = (
        "from pipeline.model import checkpoint as c\nm = c.resolve('some/albert')\n"
        "print(m.revision, m.size('hidden_size'))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    shown = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert shown.split() == [commit, "16"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": 7}, "must divide hidden_size"),
        ({"hidden_act": "foo"}, "hidden_act is unknown"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps must be a small positive float"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be a small positive float"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer"),
    ],
)
def test_a_geometry_that_no_replica_could_load_is_refused(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    edit_config(folder, **values)
    with pytest.raises(ModelError, match=message):
        checkpoint.resolve(str(folder)).check()


def test_the_rules_of_a_tokenizer_are_part_of_its_digest_where_they_decide(folder: Path) -> None:
    """A dataset keeps its digest, unless its ids changed: those of a lone `spiece.model` did."""
    files = checkpoint._digest_files([folder / "tokenizer.json", folder / "tokenizer_config.json"])
    assert checkpoint.resolve(str(folder)).tokenizer_digest == files
    (folder / "spiece.model").write_text("a model")
    found = checkpoint.resolve(str(folder))
    names = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
    assert found.tokenizer_digest == checkpoint._digest_files([folder / name for name in names])
    (folder / "tokenizer.json").unlink()
    names = names[1:]
    lone = checkpoint.resolve(str(folder)).tokenizer_digest
    assert lone != checkpoint._digest_files([folder / name for name in names])
    (folder / "spiece.model").rename(folder / "vocab.txt")
    files = checkpoint._digest_files([folder / "vocab.txt", folder / "tokenizer_config.json"])
    assert checkpoint.resolve(str(folder)).tokenizer_digest == files
    rules = [TokenizerRules(lower_case=lower) for lower in (False, True)]
    digests = {checkpoint.resolve(str(folder), rules=each).tokenizer_digest for each in rules}
    assert len({files, *digests}) == 3


def test_a_revision_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="a folder has no revisions"):
        checkpoint.resolve(str(folder), "main")
