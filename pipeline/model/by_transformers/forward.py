"""Runs an encoder by transformers, over padded texts, for the checkpoints that have no forward pass here.

transformers is imported only by replicas of such checkpoints. Weights are read from safetensors alone, and
code that a folder brings is never run.

Shapes: B texts, T tokens of all texts, L tokens of the longest, D dimensions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from pipeline.errors import ModelError, one_line
from pipeline.humanize import named
from pipeline.model.attention import Packing
from pipeline.model.config_checks import own_code
from pipeline.model.model_config import ModelConfig

PROBED = (2, 9)
"""The tokens of two texts that are computed together and alone, when a replica starts."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""The largest difference between both, as a share of the length of a token's vector."""
NOT_OF_TEXTS = re.compile(r"(.*\.)?(pooler\b.*|position_ids|inv_freq)$")
"""Weights without which each token's vector is the same."""


class ByTransformers:
    """A replica, which turns packed token ids into packed token vectors; a `transformer.Transformer`.

    Args:
        weights: not used, because transformers reads them itself.

    Raises:
        ModelError: transformers can't load the folder, or what it loads is not an encoder of texts.
    """

    varlen = False

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, torch.Tensor],  # noqa: ARG002
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.model = _loaded(config, dtype).to(device).eval().requires_grad_(False)
        self._refuse_other_shapes(config, device, TOLERANCE[dtype])

    @torch.inference_mode()
    def __call__(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the last hidden state, (T, D), for int64 token ids."""
        inputs = {"input_ids": _padded(ids_T, packing)}
        if packing.type_ids is not None:
            inputs["token_type_ids"] = _padded(packing.type_ids, packing)
        mask = packing.pad_mask
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"]) if mask is None else mask.long()
        hidden_TD: torch.Tensor = self.model(**inputs).last_hidden_state.flatten(0, 1)
        return hidden_TD if packing.unpad_index is None else hidden_TD[packing.unpad_index]

    def _refuse_other_shapes(self, config: ModelConfig, device: torch.device, tolerance: float) -> None:
        """Refuses a model that gives no vector for each token, or whose vectors depend on other texts."""
        where, kind = str(config.path.parent), f"model_type {config.values.get('model_type')!r}"
        hint = "name another checkpoint"
        lengths = torch.tensor(PROBED, device=device)
        ids_T = torch.arange(sum(PROBED), device=device) % config.size("vocab_size")
        try:
            together_TD = self(ids_T, Packing.of(lengths, sum(PROBED), max(PROBED), False))
            alone_TD = torch.cat([self(ids, _alone(ids)) for ids in torch.split(ids_T, list(PROBED))])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ModelError("is not an encoder of texts", where, one_line(error), hint) from error
        if together_TD.shape != (sum(PROBED), config.size("hidden_size")):
            got = f"{tuple(together_TD.shape)}, {kind}"
            raise ModelError("does not give a vector for each token", where, got, hint)
        off_T = (together_TD - alone_TD).float().norm(dim=1) / alone_TD.float().norm(dim=1)
        if not float(off_T.max()) <= tolerance:
            raise ModelError("a text's vector depends on the other texts of its batch", where, kind, hint)


def _alone(ids_T: torch.Tensor) -> Packing:
    """Returns the layout of a micro-batch of one text."""
    return Packing.of(torch.tensor([len(ids_T)], device=ids_T.device), len(ids_T), len(ids_T), False)


def _padded(values_T: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Returns values of tokens as (B, L); padding repeats the last value of a text."""
    if packing.pad_index is None:
        return values_T.view(-1, packing.max_seqlen)
    return values_T[packing.pad_index]


def _loaded(config: ModelConfig, dtype: torch.dtype) -> Any:
    """Loads the model that the folder describes, and checks that all of its weights were there."""
    folder = config.path.parent
    try:
        with _quietly():
            model, told = transformers.AutoModel.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        hint = _advice(config, "fetch the checkpoint again, or name another one")
        raise ModelError("transformers can't load it", str(folder), one_line(error), hint) from error
    children = {name for name, _ in model.named_children()}
    prefix = f"{model.base_model_prefix}."
    surplus = [
        name for name in told["unexpected_keys"] if name.removeprefix(prefix).split(".")[0] in children
    ]
    _refuse(config, folder, "missing", told["missing_keys"])
    _refuse(config, folder, "unexpected", surplus)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # a decoder would keep what only its next token needs
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Mutes transformers: what it would warn of is an error here, and its bar would fill a worker's log."""
    log = transformers.utils.logging
    verbosity, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bar:
            log.enable_progress_bar()


def _refuse(config: ModelConfig, folder: Path, what: str, names: Iterable[str]) -> None:
    """Refuses a checkpoint whose weights do not fit; transformers would make up those that are missing."""
    wrong = sorted(name for name in names if not NOT_OF_TEXTS.match(name))
    if wrong:
        hint = _advice(config, "config.json and weights are not of one checkpoint: fetch both again")
        raise ModelError(f"weights are {what}", str(folder), named(wrong, ", "), hint)


def _advice(config: ModelConfig, otherwise: str) -> str:
    """Returns what to do; a folder with code of its own may have other layers than transformers' model."""
    if code := own_code(config):
        return f"config.json names code of its own ({code}), which is never run: name a checkpoint without it"
    return otherwise
