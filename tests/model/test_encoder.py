"""Checks that the encoder gives the vectors of transformers for one text at a time, in any batch."""

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AlbertModel, AutoTokenizer

from pipeline import telemetry
from pipeline.config.sections import Model
from pipeline.errors import ModelError
from pipeline.model import checkpoint, device
from pipeline.model import encoder as module
from pipeline.model import layer as layers
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.attention import Packing, has_varlen
from pipeline.model.batching import TokenBatch, micro_batches
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import make_checkpoint

TEXTS = [
    "one",
    "two words",
    "a much longer text " * 30,
    "one",
    "3.14 (or so)",
    "naïve café " * 5,
    "two words",
]
POOLED = {
    "mean": lambda hidden: hidden.mean(0),
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.amax(0),
    "mean_sqrt_len": lambda hidden: hidden.sum(0) / len(hidden) ** 0.5,
}
GEOMETRIES = {
    "albert-base-v1": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                       "num_attention_heads": 12, "hidden_act": "gelu"},
    "albert-base-v2": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                       "num_attention_heads": 12},
    "albert-large-v2": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                        "num_attention_heads": 16},
    "albert-xlarge-v2": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
                         "num_attention_heads": 16},
    "albert-xxlarge-v1": {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 12,
                          "num_attention_heads": 64, "hidden_act": "gelu"},
    "albert-xxlarge-v2": {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 12,
                          "num_attention_heads": 64},
    "narrow-xlarge": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24,
                      "num_attention_heads": 2},
    "narrow-xxlarge": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
                       "num_attention_heads": 8, "hidden_act": "gelu"},
    "chinese-tiny": {"hidden_size": 312, "intermediate_size": 1248, "num_hidden_layers": 4,
                     "num_attention_heads": 12},
    "chinese-small": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
                      "num_attention_heads": 12},
    "two-groups": {"num_hidden_groups": 2},
    "two-inner": {"inner_group_num": 2},
    "both": {"num_hidden_groups": 2, "inner_group_num": 3, "num_hidden_layers": 4},
    "uneven-groups": {"num_hidden_groups": 3, "num_hidden_layers": 7},
    "epsilon": {"layer_norm_eps": 0.1},
}  # fmt: skip
"""The published geometries (Google's v1 and v2, the Chinese), with small embeddings, and further variants.

The narrow ones have the depth of the giants, and heads of the same width.
"""
GIANTS = ("albert-large-v2", "albert-xlarge-v2", "albert-xxlarge-v1", "albert-xxlarge-v2")


def reference(folder: Path, texts: list[str], max_tokens: int, pooling: str = "mean") -> np.ndarray[Any, Any]:
    """Returns the vectors of transformers' AlbertModel and AutoTokenizer, one text at a time, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AlbertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    vectors = []
    for text in texts:
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
            pooled = POOLED[pooling](model(**inputs).last_hidden_state[0])
        vectors.append(torch.nn.functional.normalize(pooled, dim=0).numpy())
    return np.stack(vectors)


def tokenized(folder: Path, texts: list[str], max_tokens: int = 512) -> TokenBatch:
    return Tokenizer(checkpoint.resolve(str(folder)), max_tokens).encode(pa.array(texts, pa.large_string()))


def encode(
    folder: Path, texts: list[str], max_tokens: int = 512, model: dict[str, Any] | None = None, **options: Any
) -> np.ndarray[Any, Any]:
    recipe = EmbeddingSpec.of(checkpoint.resolve(str(folder)), Model(**model or {}))
    return Encoder(folder, recipe=recipe, **options).encode(tokenized(folder, texts, max_tokens))


@pytest.mark.parametrize(
    "geometry",
    [pytest.param(name, marks=pytest.mark.full if name in GIANTS else ()) for name in GEOMETRIES],
)
def test_equals_transformers(tmp_path: Path, geometry: str) -> None:
    folder = make_checkpoint(tmp_path / "model", **GEOMETRIES[geometry])
    # Three texts are enough for the giants, which add only their geometry.
    texts = TEXTS[:3] if geometry in GIANTS else TEXTS
    vectors = encode(folder, texts, 24)
    np.testing.assert_allclose(vectors, reference(folder, texts, 24), atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_equals_transformers(tmp_path: Path, activation: str) -> None:
    folder = make_checkpoint(tmp_path / "model", hidden_act=activation)
    np.testing.assert_allclose(encode(folder, TEXTS, 24), reference(folder, TEXTS, 24), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLED)
def test_every_pooling_equals_transformers(tiny: Path, pooling: str) -> None:
    vectors = encode(tiny, TEXTS, 64, {"pooling": pooling})
    np.testing.assert_allclose(vectors, reference(tiny, TEXTS, 64, pooling), atol=1e-5)


def test_the_built_in_checkpoint_equals_transformers() -> None:
    folder = checkpoint.resolve("albert-mini").folder
    np.testing.assert_allclose(encode(folder, TEXTS), reference(folder, TEXTS, 512), atol=1e-5)


@pytest.mark.parametrize("budget", [1, 16, 100_000])
def test_company_and_order_change_nothing(tiny: Path, budget: int) -> None:
    together = encode(tiny, TEXTS, batch_tokens=budget)
    backwards = encode(tiny, TEXTS[::-1], batch_tokens=budget)[::-1]
    alone = np.concatenate([encode(tiny, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(backwards, alone, atol=1e-5)


def test_attention_matters_in_the_tests(tiny: Path) -> None:
    """Otherwise all tests would pass without attention."""
    encoder = Encoder(tiny)
    wanted = encoder.encode(tokenized(tiny, TEXTS))
    for each in encoder.model.modules():
        if isinstance(each, layers.Attention):
            each.query.forward = torch.zeros_like  # type: ignore[method-assign]
    assert np.abs(encoder.encode(tokenized(tiny, TEXTS)) - wanted).max() > 1e-3


def test_a_replica_keeps_its_weights_when_their_file_is_written_anew(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    tokens, encoder = tokenized(folder, TEXTS), Encoder(folder)
    wanted = encoder.encode(tokens)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(bytes(file.seek(0, 2) - file.seek(0)))
    np.testing.assert_array_equal(encoder.encode(tokens), wanted)


def test_a_text_that_becomes_nan_keeps_it_to_itself(tiny: Path) -> None:
    texts = ["a good text of words", "another good text of some words", "zebra", "a good word"]
    tokens = tokenized(tiny, texts)
    encoder = Encoder(tiny)
    wanted = encoder.encode(tokens)
    one, two, three, four, *_ = (
        set(tokens.ids[start:stop].tolist()) for start, stop in pairwise(tokens.offsets)
    )
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight[min(three - one - two - four)] = torch.nan
    found = encoder.encode(tokens)
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(found[[0, 1, 3]], wanted[[0, 1, 3]], atol=1e-5)


def test_every_micro_batch_that_ends_is_a_sign_of_life(tiny: Path) -> None:
    beats: list[int] = []
    with telemetry.on_heartbeat(lambda: beats.append(1)):
        encode(tiny, TEXTS, batch_tokens=1)
    assert len(beats) == len(set(TEXTS))


def test_identical_texts_are_encoded_once(tiny: Path) -> None:
    tokens = tokenized(tiny, ["same words"] * 50 + ["others"])
    encoded = Encoder(tiny).run(tokens)
    assert encoded.computed_tokens == tokens.lengths[0] + tokens.lengths[-1]
    assert (encoded.values[:50] == encoded.values[0]).all()


def test_no_texts_give_no_vectors(tiny: Path) -> None:
    assert encode(tiny, []).shape == (0, 16)


def test_unnormalised_vectors_keep_their_length(tiny: Path) -> None:
    norms = np.linalg.norm(encode(tiny, TEXTS, model={"normalize": False}), axis=1)
    assert not np.allclose(norms, 1)


def test_truncated_dimensions_are_the_first_and_of_length_one(tiny: Path) -> None:
    whole = encode(tiny, TEXTS)
    short = encode(tiny, TEXTS, model={"truncate_dim": 5})
    first = whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True)
    np.testing.assert_allclose(short, first, atol=1e-6)


def out_of_memory(encoder: Encoder, fails: Callable[[int, int], bool]) -> None:
    """Makes the model run out of memory if `fails(call, tokens)`; a real failure would need a GPU."""
    forward, calls = encoder.model.forward, iter(range(10**9))

    def failing(ids: torch.Tensor, *arguments: Any) -> torch.Tensor:
        if fails(next(calls), len(ids)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(ids, *arguments)

    encoder.model.forward = failing  # type: ignore[method-assign]


def test_running_out_of_memory_costs_budget_and_no_row(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"{'word ' * (number % 40)}number {number}" for number in range(300)]
    tokens = tokenized(tiny, texts)
    encoder = Encoder(tiny, batch_tokens=4096)
    whole = encoder.encode(tokens)
    # Ten calls in a row fail among others: calls 1 to 10 of the second run.
    out_of_memory(encoder, lambda call, _: 1 <= call <= 10)
    with caplog.at_level(logging.WARNING, "pipeline"):
        encoded = encoder.run(tokens)
    np.testing.assert_allclose(encoded.values, whole, atol=1e-5)
    assert not encoded.too_large.any()
    figures = [line for line in caplog.messages if "out of memory" in line]
    assert figures
    assert f"batch_tokens={encoder.batch_tokens}" in figures[-1]
    assert 1 < encoder.batch_tokens < 4096


def test_a_long_text_waits_until_the_others_are_done(tiny: Path) -> None:
    tokens = tokenized(tiny, ["long " * 400, *(f"short {number}" for number in range(60))])
    encoder = Encoder(tiny, batch_tokens=300)
    sizes: list[int] = []

    def fails(call: int, size: int) -> bool:
        sizes.append(size)
        return call < 5

    out_of_memory(encoder, fails)
    assert not encoder.run(tokens).too_large.any()
    assert sizes[-1] == max(sizes) == tokens.lengths[0]


def test_a_small_batch_that_fails_once_does_not_ruin_the_budget(tiny: Path) -> None:
    tokens = tokenized(tiny, ["long " * 400, "long " * 401, "x", "y"])
    encoder = Encoder(tiny, batch_tokens=int(tokens.lengths[:2].sum()))
    before = encoder.batch_tokens
    failed: list[int] = []

    def fails(_: int, size: int) -> bool:
        first = size < 20 and not failed
        if first:
            failed.append(size)
        return first

    out_of_memory(encoder, fails)
    assert not encoder.run(tokens).too_large.any()
    assert failed
    assert encoder.batch_tokens == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_every_form_of_it_is_known(tiny: Path, error: RuntimeError) -> None:
    encoder = Encoder(tiny)
    forward, calls = encoder.model.forward, iter(range(100))

    def failing(*arguments: Any) -> torch.Tensor:
        if next(calls) == 0:
            raise error
        return forward(*arguments)

    encoder.model.forward = failing  # type: ignore[method-assign]
    assert not encoder.run(tokenized(tiny, TEXTS)).too_large.any()


def test_a_text_that_does_not_fit_alone_is_told_apart(tiny: Path) -> None:
    tokens = tokenized(tiny, TEXTS)
    encoder = Encoder(tiny, batch_tokens=256)
    whole = encoder.encode(tokens)
    out_of_memory(encoder, lambda _, size: size > 60)
    encoded = encoder.run(tokens)
    assert encoded.too_large.tolist() == [length > 60 for length in tokens.lengths]
    assert np.isnan(encoded.values[encoded.too_large]).all()
    np.testing.assert_allclose(encoded.values[~encoded.too_large], whole[~encoded.too_large], atol=1e-5)


def test_other_errors_of_the_model_are_not_hidden(tiny: Path) -> None:
    encoder = Encoder(tiny)

    def failing(*_: Any) -> torch.Tensor:
        raise RuntimeError("device-side assert")

    encoder.model.forward = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="device-side assert"):
        encoder.encode(tokenized(tiny, TEXTS))


def test_a_pickle_is_read_only_where_allowed_and_only_bare_weights(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = make_checkpoint(tmp_path / "pickled")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({f"albert.{name}": weight for name, weight in weights.items()}, folder / "pytorch_model.bin")
    allowed = checkpoint.resolve(str(folder), allow_pickle=True)
    allowed.check()
    tokens = tokenized(tiny, TEXTS)
    np.testing.assert_array_equal(Encoder(allowed).encode(tokens), Encoder(tiny).encode(tokens))

    for content, message in (
        ({"albert.nothing": torch.zeros(1)}, "weights are missing"),
        ({"weights": Path("/")}, "can't be read as bare weights"),
        ([torch.zeros(1)], "is not a mapping of weights"),
    ):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(checkpoint.ModelError, match=message):
            Encoder(checkpoint.resolve(str(folder), allow_pickle=True))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA driver error: unspecified launch failure",
    ],
)
def test_a_failed_library_is_a_failed_device(
    tiny: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test patches CUDA's calls, because no device can be made to fail like this."""

    def dead(_: torch.device) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "synchronize", dead)
    error = RuntimeError(message)
    assert device.device_failed(error, torch.device("cuda"))
    assert not device.device_failed(error, torch.device("cpu"))


def test_a_fault_of_the_program_is_not_a_failed_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    error = RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    assert not device.device_failed(error, torch.device("cuda"))


def test_a_gpu_without_bfloat16_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(ModelError, match=r"Tesla T4.*7\.5.*model.dtype: float32"):
        device.require_dtype(torch.device("cuda"), torch.bfloat16)
    device.require_dtype(torch.device("cuda"), torch.float32)
    assert not has_varlen(64, torch.device("cuda"), torch.bfloat16)


def nan_for(model: Any, text: np.ndarray[Any, Any], times: int = 10**9) -> None:
    """Makes the model give NaN for a text some times, like a device that errs, or a value that overflows."""
    forward, left = model.forward, [times]

    def failing(ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        hidden = forward(ids, packing)
        for start, stop in pairwise(packing.cu_seqlens.tolist()):
            if left[0] and np.array_equal(ids[start:stop].numpy(), text):
                left[0] -= 1
                hidden[start:stop] = torch.nan
        return hidden

    model.forward = failing


def test_a_vector_that_is_not_finite_is_computed_again_in_float32(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = tokenized(tiny, [*TEXTS, "an unlucky text"])
    exact, encoder = Encoder(tiny).encode(tokens), Encoder(tiny, dtype="bfloat16")
    nan_for(encoder.model, tokens.ids[tokens.offsets[-2] :])
    with caplog.at_level(logging.WARNING, "pipeline"):
        found = encoder.encode(tokens)
    np.testing.assert_allclose(found[-1], exact[-1], atol=1e-5)
    assert np.isfinite(found).all()
    assert "not finite" in caplog.text


def test_a_device_that_errs_once_costs_no_row(tiny: Path) -> None:
    tokens = tokenized(tiny, [*TEXTS, "an unlucky text"])
    encoder = Encoder(tiny)
    wanted = encoder.encode(tokens)
    nan_for(encoder.model, tokens.ids[tokens.offsets[-2] :], times=1)
    np.testing.assert_allclose(encoder.encode(tokens), wanted, atol=1e-5)


def test_no_micro_batch_has_more_texts_than_a_grid_has_places() -> None:
    sizes = [len(batch) for batch in micro_batches(np.full(70_000, 3), 1 << 20, np.inf, module.MAX_TEXTS)]
    assert sizes == [65_535, 4_465]
