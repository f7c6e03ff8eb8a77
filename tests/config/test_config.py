"""Tests of configs: which ones are refused, with which message, and that it names all mistakes at once."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import sections
from pipeline.config.load import load_config, parse_config
from pipeline.config.location import Options
from pipeline.errors import ConfigError

GOOD: dict[str, Any] = {"source": {"docs": {"path": "in/*.parquet"}}, "output": {"path": "out"}}


def test_defaults_are_filled_in() -> None:
    loaded = parse_config(GOOD)
    source = loaded.source["docs"]
    assert (source.format, source.text_column, source.columns) == ("parquet", "text", ())
    assert (loaded.dtype, loaded.model.pooling, loaded.model.name) == ("float32", "auto", "albert-mini")


def test_every_mistake_is_named_with_place_value_and_remedy() -> None:
    wrong = {
        "source": {"docs": {"path": "in/*.parquet", "text_colum": "x"}},
        "model": {"max_tokens": 1},
        "compute": {"device": "tpu"},
        "output": {"path": "out", "rows_per_shard": "many"},
        "quality": {"max_reject_fraction": 2},
    }
    with pytest.raises(ConfigError) as raised:
        parse_config(wrong, "job.yaml")
    lines = str(raised.value).splitlines()
    assert lines[0] == "job.yaml: 5 mistakes:"
    assert lines[1:] == [
        "  source.docs.text_colum (a text): unknown key; did you mean text_column?",
        "  model.max_tokens = 1: input should be greater than or equal to 3",
        "  compute.device = 'tpu': input should be 'cpu' or 'cuda'",
        "  output.rows_per_shard = 'many': input should be a valid integer, "
        "unable to parse string as an integer",
        "  quality.max_reject_fraction = 2: input should be less than or equal to 1",
    ]


@pytest.mark.parametrize(
    ("section", "values", "part"),
    [
        ("source", {"docs": {"path": "in/*.txt", "carry": ["x"]}}, "text files have no columns"),
        ("source", {"docs": {"path": "in/"}}, "can't tell the format of 'in/'"),
        ("source", {"Docs": {"path": "in/*.txt"}}, "source.Docs"),
        ("source", {}, "at least 1"),
        ("publish", {"lake": {"format": "delta"}}, "end output.path with /{run_date}"),
        ("publish", {"lake": {"format": "iceberg"}}, "needs its name, such as search.articles"),
        (
            "publish",
            {"lake": {"format": "delta", "table": "a.b"}},
            "publish.lake.table = 'a.b': means",
        ),
        ("model", {"dtype": "bfloat16"}, "needs compute.device cuda"),
        (
            "compute",
            {"min_replicas": 4, "max_replicas": 2},
            "compute.max_replicas = 2: is below min_replicas 4",
        ),
        ("output", {"path": "ftp://host/x"}, "ftp: is not supported"),
        ("output", {"path": "simplecache::s3://b/x"}, "is not supported"),
        ("output", {"path": "s3://key:secret@b/x"}, "credentials must not stand in a URL"),
        ("source", {"docs": {"path": "s3://b/x.txt?X-Amz-Signature=1"}}, "credentials must not"),
        ("output", {"path": ""}, "at least 1 character"),
        ("output", {"path": "hf://datasets/a/b"}, "hf is for sources only"),
        ("output", {"path": "out", "options": {"region": "x"}}, "region means nothing to file"),
        ("output", {"path": "gs://b", "options": {"profile": "x"}}, "profile means nothing to gs"),
        ("output", {"path": "s3://b", "options": {"anonymous": True, "profile": "x"}}, "drop one of the two"),
        ("output", {"path": "s3://b", "options": {"endpoint_url": "minio:9000"}}, "starts with http://"),
        ("output", {"path": "s3://b", "options": {"endpoint_url": "http://k:s@h"}}, "credentials must not"),
        (
            "output",
            {"path": "s3://b", "options": {"endpoint": "x"}},
            "output.options.endpoint (a text): unknown key; did you mean endpoint_url?",
        ),
        ("source", {"docs": {"path": ".", "format": "text"}}, "lies in source.docs"),
        ("source", {"docs": {"path": "./**/*.txt"}}, "lies in source.docs"),
        ("source", {"docs": {"path": "out/*.parquet"}}, "lies in source.docs"),
        ("source", {"docs": {"path": "./*/data/*.parquet"}}, "lies in source.docs"),
        ("source", {"docs": {"path": "out/*.json", "format": "jsonl"}}, "lies in source.docs"),
        ("source", {"docs": {"path": "in/{run_date}/*.txt"}}, "stands for the date in output.path alone"),
        ("source", {"docs": {"path": "in/*.parquet", "carry": "a,b"}}, "is not a list: write it as [a, b]"),
        ("source", {"docs": {"path": "in/*.parquet", "carry": {"a": 1}}}, "write it as [one, another]"),
        ("source", {"docs": {"path": "in/*.csv", "binary_as_string": True}}, "means nothing to csv"),
        ("source", {"docs": {"path": "in/*.parquet", "version": 3}}, "means nothing to parquet"),
        (
            "source",
            {"docs": {"path": "in/*", "format": "delta"}},
            "path must be its folder, without wildcards",
        ),
        ("source", {"docs": {"path": "in", "format": "delta", "partitions": ["day"]}}, "carry them"),
        ("source", {"docs": {"path": "in", "format": "iceberg", "hidden": "read"}}, "log names its files"),
        ("source", {"docs": {"path": "in", "format": "iceberg", "compression": "gzip"}}, "drop it"),
        ("source", {"a": {"path": "x.txt"}, "b": {"path": "x.parquet", "id_column": "id"}}, "carries `id`"),
        ("speed", {}, "unknown key; known here: source, model, compute, output, reuse, quality"),
    ],
)
def test_what_cannot_be_honoured_is_refused(section: str, values: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match="config: ") as raised:
        parse_config(GOOD | {section: values})
    assert part in str(raised.value)


def test_a_source_may_lie_beside_the_output() -> None:
    for path in ("out/*.jsonl", "out/*/*.csv", "*.parquet", "out-2/*.parquet"):
        assert parse_config(GOOD | {"source": {"docs": {"path": path}}})


def test_every_protocol_and_its_options() -> None:
    for path, options in (
        (
            "s3://b/*.txt",
            {"endpoint_url": "http://h:1", "profile": "p", "region": "r", "requester_pays": True},
        ),
        ("gs://b/*.txt", {"endpoint_url": "https://h", "requester_pays": True}),
        ("abfs://c/*.txt", {"anonymous": True}),
        ("hf://datasets/a/b@main/*.txt", {"anonymous": True}),
    ):
        parsed = parse_config(GOOD | {"source": {"docs": {"path": path, "options": options}}})
        assert parsed.source["docs"].options.model_dump(exclude_defaults=True) == options


def test_overrides_and_run_date(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: {docs: {path: in/*.parquet}}\noutput: {path: 'out/{run_date}/'}\n")
    loaded = load_config(
        str(path), ["model.max_tokens=64", "source.docs.carry=[a, b]"], datetime.date(2026, 1, 2)
    )
    assert loaded.model.max_tokens == 64
    assert loaded.source["docs"].carry == ("a", "b")
    assert loaded.output.path == "out/2026-01-02"


@pytest.mark.parametrize("override", ["model.max_tokens", "max_tokens=3", "model.name.x.y=1"])
def test_an_override_that_is_none_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: {docs: {path: in/*.parquet}}\nmodel: {name: x}\noutput: {path: out}\n")
    with pytest.raises(ConfigError, match="--set"):
        load_config(str(path), [override])


@pytest.mark.parametrize("text", ["- a list", "a: b: c", ""])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="YAML|mapping"):
        load_config(str(path))


def test_no_such_file() -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config("nowhere.yaml")


def test_every_field_is_documented() -> None:
    for section in (
        sections.Source,
        sections.Model,
        sections.Compute,
        sections.Output,
        sections.Quality,
        Options,
    ):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_mistakes_of_one_section_do_not_hide_each_other() -> None:
    source = {"path": "folder/", "txt_column": "x", "carry": "name"}
    with pytest.raises(ConfigError, match="3 mistakes"):
        parse_config(GOOD | {"source": {"docs": source}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": {"docs": {"pth": "s3://k:SECRET@b/x.txt"}}},
        {"source": "s3://k:SECRET@b/x.txt"},
        {"source": {"docs": {"path": ["s3://k:SECRET@b/x.txt"]}}},
        {"source": {"s3://k:SECRET@b/x": {}}},
        {"output": {"path": "s3://b/x?X-Amz-Signature=SECRET&a=b"}},
        {"output": {"path": "out", "secret_key": "SECRET"}},
        {"output": {"path": "s3://b", "options": {"secret": "SECRET"}}},
        {"output": {"path": "s3://b", "options": {"endpoint_url": "http://k:SECRET@h"}}},
        {"output": {"path": "s3://AKIA:abc/SECRET+gh@bucket/x"}},
        {"output": {"path": "s3://AKIA:12/SECRET@bucket/x"}},
        {"output": {"path": "s3://AKIA:a 'b\" SECRET/@bucket/x"}},
        {"output": {"path": "s3://AKIA:a@b/SECRET@bucket/x"}},
        {"output": {"path": "s3:/AKIA:abc/SECRET@bucket/x"}},
        {"output": {"path": "s3a://AKIA:abc/SECRET@bucket/x"}},
        {"output": {"path": "simplecache::s3://AKIA:abc/SECRET@bucket/x"}},
        {"source": {"docs": {"path": "gs://user:SECRET/+=@b/x.txt"}}},
        {"source": {"docs": {"path": "abfs://key:SECRET/+==@c/x.txt"}}},
        {"source": {"docs": {"path": "hf://user:SECRET@datasets/a/b/x.txt"}}},
        {"source": {"docs": {"path": "hf://SECRET@datasets/a/b/x.txt"}}},
        {"source": {"docs": {"path": "https://user:SECRET/+@host/x.txt"}}},
        {"source": {"docs": {"path": "https://host/x.txt?sig=SECRET"}}},
        {"reuse": {"base": "s3://AKIA:abc/SECRET@bucket/x"}},
        {"output": {"path": "s3://b", "options": {"endpoint_url": "https://user:pa/SECRET@minio"}}},
        {"output": {"path": "s3://b", "options": {"endpoint_url": "https://SECRET@minio"}}},
        {"output": {"path": "s3://b", "options": {"endpoint_url": "https://minio?sig=SECRET"}}},
        {"output": {"path": "s3://b", "options": "secret=SECRET"}},
        {"output": {"path": "s3://b", "options": ["SECRET"]}},
        {"output": {"path": "s3://b", "options": {"region": {"key": "SECRET"}}}},
        {"output": {"path": "s3://b", "options": {"region": ["SECRET"]}}},
        {"output": {"path": "s3://b", "storage_options": {"key": "a", "secret": "SECRET"}}},
        {"output": {"path": "s3://b", "s3": {"aws_secret_access_key": "SECRET"}}},
        {"output": {"path": "s3://b", "HF_TOKEN=SECRET": None}},
        {"env": {"HF_TOKEN": "SECRET"}},
        {"env": ["HF_TOKEN=SECRET"]},
        {"env": "SECRET"},
        {"source": {"HF_TOKEN=SECRET": {"path": "x.txt"}}},
        {"model": "SECRET"},
    ],
)
def test_no_message_shows_a_secret(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(GOOD | wrong)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    "path",
    [
        "s3://bucket/a@b.parquet",
        "s3://bucket/secret=1/key=2/x?.parquet",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/a@b.parquet",
        "gs://bucket/a:b@c.parquet",
        "hf://datasets/a/b@refs%2Fconvert%2Fparquet/x.parquet",
        "in/a@b:c@d.parquet",
    ],
)
def test_what_looks_like_a_secret_and_is_the_name_of_an_object_is_taken(path: str) -> None:
    assert parse_config(GOOD | {"source": {"docs": {"path": path}}}).source["docs"].path == path


@pytest.mark.parametrize("path", ["s3:/bucket/x.txt", "hf:datasets/a/b/x.txt"])
def test_a_url_without_its_slashes_is_no_local_path(path: str) -> None:
    with pytest.raises(ConfigError, match="looks like one"):
        parse_config(GOOD | {"source": {"docs": {"path": path}}})


@pytest.mark.parametrize("override", ["SECRET", "secret=SECRET", "model.name.x=SECRET", "key:a/SECRET@b"])
def test_an_override_that_is_refused_is_not_shown(tmp_path: Path, override: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: {docs: {path: x.txt}}\nmodel: {name: x}\noutput: {path: out}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(str(path), [override])
    assert "SECRET" not in str(raised.value) or override == "SECRET"


def test_an_empty_section_is_its_defaults_and_a_key_may_not_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: {docs: {path: in/*.parquet}}\nmodel:\noutput: {path: out}\n")
    assert load_config(str(path)).model.max_tokens is None
    assert load_config(str(path), ["model.max_tokens=12"]).model.max_tokens == 12
    path.write_text("source: {a: {path: x.txt}, a: {path: y.txt}}\noutput: {path: out}\n")
    with pytest.raises(ConfigError, match="'a' stands twice"):
        load_config(str(path))


@pytest.mark.parametrize("value", ["*.txt", "{run_date}", "@x", "[a"])
def test_overrides_that_are_no_yaml_are_text(tmp_path: Path, value: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("source: {docs: {path: in/*.parquet}}\noutput: {path: out}\n")
    loaded = load_config(str(path), [f"model.name={value}"])
    assert loaded.model.name == value


def test_relative_paths_are_refused_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_config(GOOD).absolute().output.path == str(Path("out").absolute())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match="another place on each node"):
        parse_config(GOOD).absolute()
    both = {"source": {"docs": {"path": "s3://b/*.txt"}}, "output": {"path": "/abs"}}
    assert parse_config(both).absolute().source["docs"].path == "s3://b/*.txt"
