"""Reads a YAML config; every mistake in the file is reported at once."""

import datetime
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic_core import ErrorDetails

from pipeline.config.location import Section, protocol_of
from pipeline.config.sections import Config, Output
from pipeline.errors import ConfigError
from pipeline.humanize import first_few
from pipeline.sanitize import MASK, holds_secret

KEY = "[key]"
"""What pydantic calls the key of a mapping, behind it."""


_KEY = re.compile(r"[\w .-]{1,40}")
"""What may be told of a key that we do not know; anything else in its place may be a secret."""


_KINDS: Mapping[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}


MAX_MISTAKES = 50


_SECTIONS = ("model_type", "model_attributes_type", "dict_type", "dataclass_type")
"""Mistakes of who wrote something else where a section stands."""


def load_config(path: str, overrides: Sequence[str] = (), run_date: datetime.date | None = None) -> Config:
    """Read a YAML config, apply `section.field=value` overrides, fill in `{run_date}`.

    Args:
        run_date: the date that `{run_date}` stands for, before the config's own; today in UTC when neither.

    Raises:
        ConfigError: everything that is wrong, one line each.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise ConfigError("no such config file", path, hint="check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("can't be read as YAML", path, _problem(error), hint="mend it there") from None
    if not isinstance(values, dict):
        raise ConfigError(
            "is no mapping of sections",
            path,
            "nothing" if values is None else type(values).__name__,
            hint="it has source:, model:, output: and so on; see docs/configuration.md",
        )
    for override in overrides:
        apply_override(values, override)
    config = parse_config(values, where=path)
    return config.model_copy(update={"output": _dated(config.output, run_date)})


def _problem(error: Exception) -> str:
    """What YAML says, in a line, with the place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _dated(output: Output, run_date: datetime.date | None) -> Output:
    """The output with `{run_date}` filled in; where there is none to fill in, no date."""
    if "{run_date}" not in output.path:
        return output.model_copy(update={"path": output.path.rstrip("/"), "run_date": None})
    date = run_date or output.run_date or datetime.datetime.now(datetime.UTC).date()
    path = output.path.replace("{run_date}", date.isoformat()).rstrip("/")
    return output.model_copy(update={"path": path, "run_date": date})


def parse_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """Validate a mapping of sections.

    Raises:
        ConfigError: everything that is wrong, one line each.
    """
    values = {name: {} if section is None else section for name, section in values.items()}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
        if len(problems) == 1:
            raise ConfigError(problems[0], where) from None
        raise ConfigError(
            f"{len(problems)} mistakes:", where, more=first_few(problems, MAX_MISTAKES)
        ) from None


def apply_override(values: dict[str, Any], override: str, top_level: bool = False) -> None:
    """Sets a field as `section.field=value` says.

    Args:
        top_level: whether a field may stand outside of a section.

    Raises:
        ConfigError: it is written in another way, or what it names is not a section.
    """
    key, equals, text = override.partition("=")
    *parents, leaf = key.split(".")
    if not equals or not (parents or top_level):
        hint = "such as --set model.max_tokens=128"
        raise ConfigError("is not section.field=value", "--set", repr(_shown_key(key)), hint)
    section: Any = values
    for parent in parents:
        section[parent] = {} if section.get(parent) is None else section[parent]
        section = section[parent]
        if not isinstance(section, dict):
            hint = "see docs/configuration.md"
            raise ConfigError(f"{parent} is no section", "--set", repr(_shown_key(key)), hint)
    section[leaf] = _scalar_or_list(text)


def _scalar_or_list(text: str) -> Any:
    """What a value on the command line means: YAML, but `*.parquet` and `{run_date}/x` are themselves."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, dict) else value


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key may stand only once: of two sources of one name, one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                problem = f"{key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def _describe(problem: ErrorDetails) -> str:
    """A mistake, with what was got as far as it can't be a secret: no value of a key that we do not know."""
    *parents, last = problem["loc"] or ("config",)
    got, unknown = problem["input"], problem["type"] == "extra_forbidden"
    where = ".".join(_shown_key(str(part)) for part in (*parents, last))
    if unknown:
        names = _fields_at(parents)
        near = difflib.get_close_matches(str(last), names, n=1)
        right = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
        return f"{where} ({_kind(got)}): unknown key; {right}"
    if problem["type"] == "missing":
        return f"{where}: is missing and has no default: set it"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] in _SECTIONS:
        return f"{where} ({_kind(got)}): {message}"
    if isinstance(got, dict | Section) or last == KEY:
        return f"{where}: {message}"
    return f"{where} = {_shown(got)}: {message}"


def _shown(value: object) -> str:
    """The value of a field; of a list of them only what it is."""
    if isinstance(value, str) and holds_secret(value):
        return f"'{_shown_key(protocol_of(value))}://{MASK}'"
    return _kind(value) if isinstance(value, list) else repr(value)


def _kind(value: object) -> str:
    """What a value is, without telling it."""
    return "nothing" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")


def _shown_key(key: str) -> str:
    return key if key == KEY or _KEY.fullmatch(key) else MASK


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """The names that are known at a place of the config, for the nearest one to a misspelt key."""
    model: type[BaseModel] = Config
    for part in location:
        if part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
            sections = [kind for kind in inner if issubclass(kind, BaseModel)]
            model = sections[-1] if sections else model
    return list(model.model_fields)
