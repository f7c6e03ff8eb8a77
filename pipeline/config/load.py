"""Reads a YAML config, and reports all mistakes of the file at once."""

import datetime
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

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
"""The name that pydantic gives to a key of a mapping, after the mapping's name."""


_KEY = re.compile(r"[\w .-]{1,40}")
"""The form of an unknown key that may be shown. Any other text in the place of a key may be a secret."""


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
"""The types of mistakes where the file has another value in the place of a section."""


_LISTS = ("tuple_type", "list_type")
"""The types of mistakes where the file has another value in the place of a list."""


def load_config(path: str, overrides: Sequence[str] = (), run_date: datetime.date | None = None) -> Config:
    """Reads a YAML config, applies `section.field=value` overrides, fills in `{run_date}`.

    Args:
        run_date: the date for `{run_date}`; None for the date of the config, or today in UTC if it has none.

    Raises:
        ConfigError: lists all mistakes, one a line.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise ConfigError("no such config file", path, hint="check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("can't be read as YAML", path, _problem(error), hint="correct it there") from None
    if not isinstance(values, dict):
        raise ConfigError(
            "is not a mapping of sections",
            path,
            "nothing" if values is None else type(values).__name__,
            hint="it needs source:, model:, output: and so on; see docs/configuration.md",
        )
    for override in overrides:
        apply_override(values, override)
    return make_config(values, path, run_date)


def make_config(
    values: Mapping[str, Any], where: str = "config", run_date: datetime.date | None = None
) -> Config:
    """Validates a mapping of sections, and fills in `{run_date}` as `load_config` does.

    Raises:
        ConfigError: lists all mistakes, one a line.
    """
    config = parse_config(values, where)
    return config.model_copy(update={"output": _dated(config.output, run_date)})


def _problem(error: Exception) -> str:
    """Returns the message of YAML in one line, with the place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _dated(output: Output, run_date: datetime.date | None) -> Output:
    """Returns the output with `{run_date}` filled in; without a date if the path does not have it."""
    if "{run_date}" not in output.path:
        return output.model_copy(update={"path": output.path.rstrip("/"), "run_date": None})
    date = run_date or output.run_date or datetime.datetime.now(datetime.UTC).date()
    path = output.path.replace("{run_date}", date.isoformat()).rstrip("/")
    return output.model_copy(update={"path": path, "run_date": date})


def parse_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """Validates a mapping of sections.

    Raises:
        ConfigError: lists all mistakes, one a line.
    """
    values = {name: {} if section is None else section for name, section in values.items()}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _mistakes([_describe(problem) for problem in error.errors()], where) from None


SectionKind = TypeVar("SectionKind", bound=Section)


def parse_section(kind: type[SectionKind], name: str, values: Mapping[str, Any], where: str) -> SectionKind:
    """Validates the values of one section.

    Args:
        name: the section's name in a config.

    Raises:
        ConfigError: lists all mistakes, one a line.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = [{**problem, "loc": (name, *problem["loc"])} for problem in error.errors()]
        problems = [_describe(cast(ErrorDetails, problem)) for problem in found]
        raise _mistakes([problem.removeprefix(f"{name}.") for problem in problems], where) from None


def _mistakes(problems: Sequence[str], where: str) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(problems[0], where)
    return ConfigError(f"{len(problems)} mistakes:", where, more=first_few(problems, MAX_MISTAKES))


def apply_override(values: dict[str, Any], override: str, top_level: bool = False) -> None:
    """Sets a field from an override `section.field=value`.

    Args:
        top_level: True if a field may stand outside of a section.

    Raises:
        ConfigError: the override has another form, or names something that is not a section.
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
            raise ConfigError(f"{parent} is not a section", "--set", repr(_shown_key(key)), hint)
    section[leaf] = _scalar_or_list(text)


def _scalar_or_list(text: str) -> Any:
    """Parses a value of the command line as YAML, but keeps `*.parquet` and `{run_date}/x` as they are."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, dict) else value


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key that stands twice: one of two sources with one name would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                problem = f"{key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def _describe(problem: ErrorDetails) -> str:
    """Describes a mistake. Shows the value unless it may be a secret: that of an unknown key may."""
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
    if problem["type"] in _LISTS:
        return f"{where} = {_shown(got)}: is not a list: write it as [{', '.join(_items(got))}]"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] in _SECTIONS:
        return f"{where} ({_kind(got)}): {message}"
    if isinstance(got, dict | Section) or last == KEY:
        return f"{where}: {message}"
    return f"{where} = {_shown(got)}: {message}"


def _items(value: object) -> list[str]:
    """Returns the items that a text in the place of a list seems to stand for."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else []
    return names if names and all(_KEY.fullmatch(name) for name in names) else ["one", "another"]


def _shown(value: object) -> str:
    """Returns the value of a field for a message; for a list only that it is one."""
    if isinstance(value, str) and holds_secret(value):
        return f"'{_shown_key(protocol_of(value))}://{MASK}'"
    return _kind(value) if isinstance(value, list) else repr(value)


def _kind(value: object) -> str:
    """Returns the kind of a value, without the value itself."""
    return "nothing" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")


def _shown_key(key: str) -> str:
    return key if key == KEY or _KEY.fullmatch(key) else MASK


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Returns the known names at a place of the config, to find the nearest one to a misspelt key."""
    model: type[BaseModel] = Config
    for part in location:
        if part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
            sections = [kind for kind in inner if issubclass(kind, BaseModel)]
            model = sections[-1] if sections else model
    return list(model.model_fields)
