"""Checks that a folder saved by sentence-transformers gives the same vectors as that library."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from pipeline.config.sections import Model
from pipeline.errors import ModelError
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.encoder import Encoder
from pipeline.model.sentence_transformers import FLAGS
from pipeline.model.tokenizer.chunks import prefixed
from pipeline.model.tokenizer.tokenizer import Tokenizer

TEXTS = ["one", "two words (or three)", "a much longer text " * 30, "naïve café 3.14"]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
SAVED = [
    *((mode,) for mode in MODES),
    ("mean", "max"),
    ("cls", "weightedmean", "lasttoken"),
]


def save(
    folder: Path,
    tiny: Path,
    modes: tuple[str, ...],
    dense: bool = False,
    normalized: bool = True,
    **more: Any,
) -> Any:
    """Saves a model by the library itself, and returns the model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    width = 16 * len(modes)
    layers = [
        Dense(width, 12, activation_function=torch.nn.Tanh()),
        Dense(12, 10, bias=False, activation_function=torch.nn.Identity()),
    ]
    parts = [Transformer(str(tiny), max_seq_length=40), Pooling(16, modes), *(layers if dense else ())]
    model = SentenceTransformer(
        modules=[*parts, *([Normalize()] if normalized else ())], device="cpu", **more
    )
    model.save_pretrained(str(folder))
    return model


def ours(folder: Path, **model: Any) -> np.ndarray[Any, Any]:
    found = checkpoint.resolve(str(folder))
    found.check()
    recipe = EmbeddingSpec.of(found, Model(**model))
    texts = prefixed(pa.array(TEXTS, pa.large_string()), recipe.prefix)
    return Encoder(found, recipe=recipe).encode(Tokenizer(found, recipe.max_tokens).encode(texts))


@pytest.mark.parametrize("dense", [False, True], ids=["bare", "dense"])
@pytest.mark.parametrize("modes", SAVED, ids="+".join)
def test_equals_sentence_transformers(
    tmp_path: Path, tiny: Path, modes: tuple[str, ...], dense: bool
) -> None:
    model = save(tmp_path / "saved", tiny, modes, dense)
    np.testing.assert_allclose(ours(tmp_path / "saved"), model.encode(TEXTS), atol=1e-5)


def test_a_folder_of_the_first_versions_gives_the_same_vectors(tmp_path: Path, tiny: Path) -> None:
    """Such a folder names the module `ALBERT`, and has the weights as a pickle in `0_ALBERT`."""
    model = save(tmp_path / "saved", tiny, ("mean",), normalized=False)
    old, new = tmp_path / "old", tmp_path / "saved"
    shutil.copytree(new / "1_Pooling", old / "1_Pooling")
    (old / "0_ALBERT").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(new / name, old / "0_ALBERT" / name)
    (old / "0_ALBERT" / "sentence_albert_config.json").write_text('{"max_seq_length": 40}')
    torch.save(load_file(new / "model.safetensors"), old / "0_ALBERT" / "pytorch_model.bin")
    kinds = [("ALBERT", "0_ALBERT"), ("Pooling", "1_Pooling")]
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    (old / "modules.json").write_text(json.dumps(listed))
    found = checkpoint.resolve(str(old), allow_pickle=True)
    found.check()
    recipe = EmbeddingSpec.of(found)
    vectors = Encoder(found, recipe=recipe).encode(
        Tokenizer(found, recipe.max_tokens).encode(pa.array(TEXTS))
    )
    np.testing.assert_allclose(vectors, model.encode(TEXTS), atol=1e-5)


def test_what_is_not_normalized_there_is_not_here(tmp_path: Path, tiny: Path) -> None:
    model = save(tmp_path / "saved", tiny, ("mean",), normalized=False)
    np.testing.assert_allclose(ours(tmp_path / "saved"), model.encode(TEXTS), atol=1e-5)
    lengths = np.linalg.norm(ours(tmp_path / "saved", normalize=True), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_the_default_prompt_is_the_prefix(tmp_path: Path, tiny: Path) -> None:
    prompts = {"prompts": {"query": "find this: "}, "default_prompt_name": "query"}
    model = save(tmp_path / "saved", tiny, ("mean",), **prompts)
    np.testing.assert_allclose(ours(tmp_path / "saved"), model.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(ours(tmp_path / "saved", prefix=""), model.encode(TEXTS, prompt=""), atol=1e-5)


def test_truncated_dimensions_are_those_of_the_library(tmp_path: Path, tiny: Path) -> None:
    model = save(tmp_path / "saved", tiny, ("mean",))
    wanted = model.encode(TEXTS, truncate_dim=6, normalize_embeddings=True)
    np.testing.assert_allclose(ours(tmp_path / "saved", truncate_dim=6), wanted, atol=1e-5)


def test_folders_of_earlier_versions(tmp_path: Path, tiny: Path) -> None:
    """Rewrites a folder as versions 2 to 5 wrote it: with flags, and other names of modules."""
    folder = tmp_path / "saved"
    model = save(folder, tiny, ("max", "mean"))
    flags = {flag: mode in ("max", "mean") for flag, mode in FLAGS.items()}
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 16, **flags}))
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    settings = {"max_seq_length": 40, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    np.testing.assert_allclose(ours(folder), model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("name", ["sentence_albert_config.json", "sentence_roberta_config.json"])
def test_settings_under_their_old_names(tmp_path: Path, tiny: Path, name: str) -> None:
    model = save(tmp_path / "saved", tiny, ("mean",))
    (tmp_path / "saved/sentence_bert_config.json").unlink()
    (tmp_path / "saved" / name).write_text(json.dumps({"max_seq_length": 7, "do_lower_case": False}))
    model.max_seq_length = 7
    np.testing.assert_allclose(ours(tmp_path / "saved"), model.encode(TEXTS), atol=1e-5)


def test_pooling_without_the_prompt_is_refused_only_where_there_is_one(tmp_path: Path, tiny: Path) -> None:
    prompts = {"prompts": {"query": "find this: "}, "default_prompt_name": "query"}
    model = save(tmp_path / "saved", tiny, ("mean",), **prompts)
    edit(tmp_path / "saved/1_Pooling/config.json", include_prompt=False)
    for chosen in ({}, {"prefix": "query: "}):
        with pytest.raises(ModelError, match="pools without the prompt"):
            ours(tmp_path / "saved", **chosen)
    np.testing.assert_allclose(ours(tmp_path / "saved", prefix=""), model.encode(TEXTS, prompt=""), atol=1e-5)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_can_not_be_honoured_is_refused_by_name(tmp_path: Path, tiny: Path) -> None:
    def refused(name: str, message: str, change: Any) -> None:
        folder = tmp_path / name
        save(folder, tiny, ("mean",), dense=True)
        change(folder)
        with pytest.raises(ModelError, match=message):
            Encoder(folder)

    modules = (
        '[{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1", "type": "my.CNN"}]'
    )
    refused("foreign", "modules that we don't know", lambda at: (at / "modules.json").write_text(modules))
    outside = modules.replace("my.CNN", "sentence_transformers.models.Pooling").replace('"1"', '"../x"')
    refused("outside", "outside of its own", lambda at: (at / "modules.json").write_text(outside))
    dense = "2_Dense/config.json"
    refused(
        "activation",
        "activation_function is unknown",
        lambda at: edit(at / dense, activation_function="os.system"),
    )
    refused("list", "is not a list of modules", lambda at: (at / "modules.json").write_text('["x"]'))
    refused(
        "integers", "must be integers", lambda at: (at / dense).write_text('{"activation_function": "Tanh"}')
    )
    refused("residual", "residual", lambda at: edit(at / dense, use_residual=True))
    refused("features", "in_features does not fit", lambda at: edit(at / dense, in_features=5))
    refused("weights", "not the Dense layer of its config", lambda at: edit(at / dense, bias=False))
    refused(
        "pickled",
        "pickled Dense layers are never read",
        lambda at: (at / "2_Dense/model.safetensors").unlink(),
    )
    refused(
        "mode", "pooling_mode is unknown", lambda at: edit(at / "1_Pooling/config.json", pooling_mode="sum")
    )
    refused("lower", "do_lower_case", lambda at: edit(at / "sentence_bert_config.json", do_lower_case=True))
    folder = tmp_path / "overridden"
    save(folder, tiny, ("mean",), dense=True)
    with pytest.raises(ModelError, match="made for its own pooling"):
        ours(folder, pooling="cls")


def test_dense_weights_count_in_the_digest(tmp_path: Path, tiny: Path) -> None:
    save(tmp_path / "one", tiny, ("mean",), dense=True)
    before = checkpoint.resolve(str(tmp_path / "one")).weights_digest
    path = tmp_path / "one/2_Dense/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert checkpoint.resolve(str(tmp_path / "one")).weights_digest != before
