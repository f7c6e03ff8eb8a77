"""Makes docs/configuration.md from the config's own models: `python -m docs.configuration`."""

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from pipeline.config.location import Options, Section
from pipeline.config.sections import (
    Compute,
    Cost,
    Model,
    Output,
    Quality,
    Report,
    Reuse,
    Table,
    TokenizerRules,
)
from pipeline.config.source import Csv, Source

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration

A job is one YAML file. Unknown keys are refused, and all mistakes of a file are reported at once.
Any field can be set on the command line: `--set section.field=value`, as often as needed.

Fields of `compute`, `reuse`, `quality`, `cost`, `report` and `publish`, `output.path`, `output.run_date` and
all `options` may change between a run and its resume; `compute.device` only where `model.dtype` is named,
since `auto` is another arithmetic on each. Of `model` the content counts (weights, tokenizer, pooling, ...),
not name or place: without `model.revision` a Hub id may be another model tomorrow. With another value of any
other field the same output is refused (exit code 5).

Made by `make docs` from `pipeline/config/`; do not edit.
"""
SECTIONS: dict[str, type[Section]] = {
    "source.NAME": Source,
    "source.NAME.csv": Csv,
    "model": Model,
    "model.tokenizer": TokenizerRules,
    "compute": Compute,
    "output": Output,
    "reuse": Reuse,
    "quality": Quality,
    "cost": Cost,
    "report": Report,
    "publish.NAME": Table,
    "source.NAME.options, output.options": Options,
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        parts += [f"\n## `{name}`\n\n| field | type | default | meaning |\n|---|---|---|---|\n"]
        parts += [_row(*field) for field in section.model_fields.items()]
    return "".join(parts)


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{_plain(field.default)}`"
    return f"| `{name}` | {_kind(field.annotation)} | {default} | {field.description} |\n"


def _kind(annotation: Any) -> str:
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind not in (NoneType, Ellipsis)]
    # Of an optional Literal the values, and of Annotated[str, ...] the str.
    kinds = [each for kind in kinds for each in (get_args(kind) if get_origin(kind) is Literal else (kind,))]
    kinds = [getattr(kind, "__origin__", kind) for kind in kinds]
    names = [f"`{kind}`" if isinstance(kind, str) else getattr(kind, "__name__", str(kind)) for kind in kinds]
    return "list of str" if getattr(annotation, "__origin__", None) is tuple else " or ".join(names)


def _plain(value: object) -> str:
    if isinstance(value, Section):
        return "{}"
    return {"None": "null", "True": "true", "False": "false", "()": "[]"}.get(str(value), str(value))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
