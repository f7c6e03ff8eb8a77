"""Checks a checkpoint and its config before any worker is requested."""

from pipeline.config.sections import Config, Model
from pipeline.errors import ModelError
from pipeline.model import checkpoint, outputs
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.tokenizer.chunks import room
from pipeline.model.tokenizer.places import refuse_without_places
from pipeline.model.tokenizer.tokenizer import Tokenizer


def usable_checkpoint(config: Config) -> checkpoint.Checkpoint:
    """Returns the checkpoint of a config, after all checks that need no torch.

    Raises:
        ModelError: it can't be used.
    """
    found, tokenizer = usable_model(config.model)
    recipe = EmbeddingSpec.of_config(found, config)
    for name, _ in recipe.prefixes:
        _check_room(tokenizer, recipe.of_source(name), f"source.{name}")
    if any(source.text_pair_column for source in config.source.values()):
        _refuse_pairs(recipe)
        _check_pairs(tokenizer, found)
    return found


def usable_model(model: Model) -> tuple[checkpoint.Checkpoint, Tokenizer]:
    """Returns the checkpoint of a config's section `model`, checked in the same way, and its tokenizer.

    Raises:
        ModelError: it can't be used.
    """
    found = checkpoint.of_config(model)
    found.check()
    recipe = EmbeddingSpec.of(found, model)
    for output, scores in recipe.heads.items():
        found.check_head(output, scores)
    tokenizer = Tokenizer(found, recipe.max_tokens)
    _check_room(tokenizer, recipe, "model")
    if recipe.of_tokens:
        refuse_without_places(tokenizer)
    return found, tokenizer


def _refuse_pairs(recipe: EmbeddingSpec) -> None:
    if of_tokens := outputs.of_tokens(recipe.outputs):
        names = " and ".join(of_tokens)
        what, hint = f"{names} can't be kept of pairs of texts", f"drop {names}, or text_pair_column"
        raise ModelError(what, "model.outputs", "text_pair_column", hint)


def _check_pairs(tokenizer: Tokenizer, found: checkpoint.Checkpoint) -> None:
    if found.size("type_vocab_size") < 2:
        hint = "name another checkpoint, or drop text_pair_column"
        raise ModelError("can't read pairs of texts", str(found.config.path), "type_vocab_size 1", hint)
    tokenizer.refuse_other_pairs()


def _check_room(tokenizer: Tokenizer, recipe: EmbeddingSpec, where: str) -> None:
    left = room(tokenizer, recipe.prefix)
    if 2 * left < tokenizer.limit:
        hint = "raise it, or shorten the prefix"
        raise ModelError(
            f"{where}.prefix leaves too little of model.max_tokens", got=f"{left} tokens", hint=hint
        )
    if 2 * recipe.chunk_overlap > left:
        hint = f"at most half of the {left} tokens that a window has"
        raise ModelError("model.chunk_overlap is too large", got=str(recipe.chunk_overlap), hint=hint)
