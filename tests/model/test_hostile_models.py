"""Checks that hostile JSON in a checkpoint costs the driver one line and no memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

from pipeline.errors import ModelError
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.fetch import names
from pipeline.model.tokenizer.hf import load_backend

NOT_JSON: dict[str, bytes] = {
    "empty": b"", "no JSON": b"{", "not UTF-8": b'{"a": "\xff\xfe"}', "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000, "a huge number": b'{"a": ' + b"9" * 5000 + b"}",
    "a list": b"[1]", "a text": b'"x"', "null": b"null", "a number": b"1e999", "nothing in it": b"{}",
}  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, 1e308, "x", "", [], [1], [[]], {}, {"a": [1]}, {"x": None},
)  # fmt: skip
TOKENIZER = "tokenizer_config.json"
FILES: dict[str, Any] = {
    "config.json": {},
    TOKENIZER: {"truncation_side": "right", "do_lower_case": True, "model_max_length": 512},
    "modules.json": [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ],
    "1_Pooling/config.json": {
        "pooling_mode": "mean",
        "include_prompt": True,
        "pooling_mode_cls_token": False,
    },
    "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
    "config_sentence_transformers.json": {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a usable sentence-transformers folder."""
    from tests.conftest import make_checkpoint

    root = make_checkpoint(tmp_path_factory.mktemp("model") / "model")
    for name, content in FILES.items():
        if content:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(json.dumps(content))
    return root


def use(folder: Path, tokenizer: bool = False) -> None:
    """Checks a checkpoint as a run's driver does; an unusable one gives one error of ours.

    Args:
        tokenizer: load the tokenizer, too, which takes most of the time.
    """
    try:
        found = checkpoint.resolve(str(folder))
        found.check()
        EmbeddingSpec.of(found)
        assert found.weights_digest
        if tokenizer:
            load_backend(folder)
    except ModelError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
        assert error.hint


def test_the_folder_itself_can_be_used(folder: Path) -> None:
    found = checkpoint.resolve(str(folder))
    found.check()
    assert found.modules
    assert (found.modules.max_tokens, found.modules.prefix) == (128, "query: ")


@pytest.mark.parametrize("name", [*FILES, names.INDEX])
def test_a_file_that_is_not_what_it_should_be(folder: Path, name: str) -> None:
    path = folder / name
    before = path.read_bytes() if path.exists() else None
    weights = folder / "model.safetensors"
    if before is None:
        weights.rename(folder / "away")
    try:
        for content in NOT_JSON.values():
            path.write_bytes(content)
            use(folder, name == TOKENIZER)
    finally:
        path.write_bytes(before or b"")
        if before is None:
            path.unlink()
            (folder / "away").rename(weights)


@pytest.mark.parametrize("name", FILES)
def test_a_value_that_is_not_what_it_should_be(folder: Path, name: str) -> None:
    """Each value of each file, in turn, is replaced by each of `VALUES`."""
    path = folder / name
    before = path.read_text()
    content = json.loads(before)
    try:
        for part in content if isinstance(content, list) else [content]:
            for key, was in list(part.items()):
                for value in VALUES:
                    part[key] = value
                    path.write_text(json.dumps(content))
                    use(folder, name == TOKENIZER)
                part[key] = was
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    "weight_map",
    [None, [], {}, {"a": 1}, {"a": ".."}, {"a": "x\0.safetensors"}, {"a": "absent.safetensors"}, {"a": []}],
    ids=repr,
)
def test_an_index_that_names_no_weights(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors").rename(folder / "away")
    try:
        (folder / names.INDEX).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ModelError):
            checkpoint.resolve(str(folder)).check()
        with pytest.raises(ModelError):
            _ = checkpoint.resolve(str(folder)).weights_digest
    finally:
        (folder / names.INDEX).unlink()
        (folder / "away").rename(folder / "model.safetensors")


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_hidden_groups": 10**7},
        {"inner_group_num": 10**9},
        {"num_hidden_layers": 10**12},
        {"vocab_size": 10**12},
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_before_they_take_memory(tmp_path: Path, folder: Path, sizes: Any) -> None:
    """Runs in a process that may take a few hundred megabytes more than its imports."""
    told = json.loads((folder / "config.json").read_text()) | sizes
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "config.json").write_text(json.dumps(told))
    script = (
        "import resource, sys; from pipeline.model import checkpoint\n"
        "from pipeline.errors import ModelError\n"
        "most = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (512 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "try: checkpoint.resolve(sys.argv[1]).check()\n"
        "except ModelError as error: print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", script, str(tmp_path)], text=True, timeout=120)
    assert f"{next(iter(sizes))} must be a positive integer, at most" in said


def test_of_a_repository_only_what_is_needed_is_downloaded() -> None:
    """Uses the Hub's own filter, for which `*` matches `/`, too."""
    needed = [
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", names.INDEX,
        "tokenizer.json", "spiece.model", "vocab.txt", "modules.json", "sentence_bert_config.json",
        "config_sentence_transformers.json", "0_Transformer/config.json", "0_Transformer/model.safetensors",
        "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
    ]  # fmt: skip
    others = [
        "checkpoint-500/model.safetensors", "checkpoint-500/model-00001-of-00002.safetensors",
        "onnx/model.safetensors", "1_Pooling/more/config.json", "0_Transformer/old/model.safetensors",
        "model-a/b/c.safetensors", "model-x/1.safetensors", "sentence_bert/deep_config.json",
        "fp32.safetensors", "pytorch_model.bin", "0_Transformer/pytorch_model.bin",
        "2_Dense/pytorch_model.bin", "checkpoint-500/pytorch_model.bin", "0_Transformer/onnx.json",
        "README.md", "10/config.json",
    ]  # fmt: skip
    found = filter_repo_objects(
        needed + others, allow_patterns=names.FETCHED, ignore_patterns=names.ELSEWHERE
    )
    assert list(found) == needed
    pickles = filter_repo_objects(
        needed + others,
        allow_patterns=[*names.FETCHED, *names.PICKLES],
        ignore_patterns=names.ELSEWHERE,
    )
    assert set(pickles) == {*needed, "pytorch_model.bin", "0_Transformer/pytorch_model.bin"}
