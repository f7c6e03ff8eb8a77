"""Tests the types that a Parquet file's own annotations say, where Arrow reads others."""

import datetime
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.source.formats import parquet
from pipeline.source.piece import Piece, RawRows, Survey
from tests.source.formats import arrow_types

TEXTS = pa.array(["first", None, "third"])


def surveyed(path: Path, **settings: object) -> Survey:
    source = Source(path=str(path), format="parquet", **settings)
    with pa.OSFile(str(path)) as file:
        return parquet.survey(file, path.name, path.stat().st_size, source)


def rows(path: Path, **settings: object) -> RawRows:
    source = Source(path=str(path), format="parquet", **settings)
    piece = Piece("docs", path.name, "1", path.stat().st_size, "rows", 0, pq.read_metadata(path).num_rows)
    with pa.OSFile(str(path)) as file:
        [raw] = parquet.read(file, [piece], source, pa.schema([]))
    return raw


def test_int96_is_an_instant(tmp_path: Path) -> None:
    moments = pa.array([datetime.datetime(2026, 3, 29, 1, 30), None, datetime.datetime(9999, 12, 31)])
    nested = pa.StructArray.from_arrays([moments], names=["at"])
    table = pa.table({"text": TEXTS, "at": moments, "seen": nested})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    found = surveyed(tmp_path / "a.parquet", carry=("at", "seen"))
    assert found.columns.field("at").type == pa.timestamp("us", "UTC")
    assert found.columns.field("seen").type == pa.struct({"at": pa.timestamp("us", "UTC")})
    values = rows(tmp_path / "a.parquet", carry=("at", "seen")).columns
    wanted = [each and each.replace(tzinfo=datetime.UTC) for each in moments.to_pylist()]
    assert values.column("at").to_pylist() == wanted
    assert [each["at"] for each in values.column("seen").to_pylist()] == wanted


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int8(), pa.binary())])
def test_bytes_are_text_on_request(tmp_path: Path, kind: pa.DataType) -> None:
    data = pa.array([b"first", None, b"\xff"], pa.binary())
    path = tmp_path / "a.parquet"
    inner = pa.ListArray.from_arrays([0, 1, 2, 3], data)
    pq.write_table(pa.table({"text": data.cast(kind), "id": data.cast(kind), "tags": inner}), path)
    with pytest.raises(SourceError, match=r"is not text .*set binary_as_string: true"):
        surveyed(path)
    settings = {"binary_as_string": True, "id_column": "id", "carry": ("tags",)}
    found = surveyed(path, **settings)
    assert found.columns == pa.schema({"id": pa.string(), "tags": pa.list_(pa.string())})
    texts = rows(path, **settings).texts.cast(pa.large_binary())
    assert texts.to_pylist() == [b"first", None, b"\xff"]


def test_json_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.json_().wrap_array(TEXTS)}), path)
    assert rows(path).texts.to_pylist() == TEXTS.to_pylist()


def test_a_column_of_nothing_but_nulls_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.nulls(2)}), path)
    assert rows(path).texts == pa.nulls(2, pa.large_string())


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"text": pa.array([], pa.float64()), "id": pa.array([], pa.int64())}),
        pa.table({"other": pa.array([], pa.string())}),
        pa.table({}),
        pa.table({"text": pa.array([], pa.string()), "id": pa.array([], pa.decimal256(50, 2))}),
    ],
)
def test_a_file_without_rows_never_fails(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    assert surveyed(tmp_path / "a.parquet", id_column="id").spans == ()


@pytest.mark.parametrize(
    ("plaintext_footer", "got"), [(False, "its footer, too"), (True, "some of its columns")]
)
def test_an_encrypted_file_is_called_so(tmp_path: Path, plaintext_footer: bool, got: str) -> None:
    class Plain(pe.KmsClient):
        def wrap_key(self, key_bytes: bytes, _: str) -> bytes:
            return key_bytes.hex().encode()

        def unwrap_key(self, wrapped_key: bytes, _: str) -> bytes:
            return bytes.fromhex(wrapped_key.decode())

    config = pe.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["text"]}, plaintext_footer=plaintext_footer
    )
    factory = pe.CryptoFactory(lambda _: Plain())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    path = tmp_path / "a.parquet"
    table = pa.table({"text": TEXTS, "key": [1, 2, 3]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(SourceError, match=f"is encrypted \\(got {got}\\); write it without encryption"):
        surveyed(path)


def test_the_first_bytes_tell_whether_a_file_is_compressed(tmp_path: Path) -> None:
    import gzip

    for name in ("df.parquet.gz", "df.parquet.zst"):
        pq.write_table(pa.table({"text": TEXTS}), tmp_path / name)
        assert len(surveyed(tmp_path / name).spans) == 1
    path = tmp_path / "whole.parquet"
    path.write_bytes(gzip.compress((tmp_path / "df.parquet.gz").read_bytes()))
    with pytest.raises(SourceError, match=r"is a compressed Parquet file, which can't be read \(got gzip\)"):
        surveyed(path)


def test_fields_that_differ_by_case_are_refused(tmp_path: Path) -> None:
    meta = pa.array([[{"Lang": "de", "lang": "en"}]])
    pq.write_table(pa.table({"text": ["a"], "meta": meta}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="column 'meta' has a type .*'Lang' and 'lang'"):
        surveyed(tmp_path / "a.parquet", carry=("meta",))


def test_a_value_that_does_not_fit_rejects_its_row_alone(tmp_path: Path) -> None:
    """A writer's largest number, which stands for "never", does not fit into microseconds."""
    path = tmp_path / "a.parquet"
    at = pa.array([0, 2**63 - 1, None], pa.int64()).cast(pa.timestamp("ms"))
    inner = pa.ListArray.from_arrays([0, 1, 2, 3], at)
    pq.write_table(pa.table({"text": ["a", "b", "c"], "at": at, "seen": inner, "key": [1, 2, 3]}), path)
    for carry in (("at", "key"), ("seen", "key")):
        found = rows(path, carry=carry)
        assert found.faults is not None
        assert found.faults.to_pylist() == ["", "carried_type", ""]
        epoch = datetime.datetime(1970, 1, 1)
        assert found.columns.column(carry[0]).to_pylist()[::2] in ([epoch, None], [[epoch], [None]])
        assert found.columns.column("key").to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    "told",
    [
        {"org.apache.spark.legacyDateTime": "", "org.apache.spark.version": "3.5.0"},
        {"org.apache.spark.version": "2.4.8"},
        {"writer.date.proleptic": "false"},
    ],
)
def test_days_of_the_julian_calendar_are_not_taken_for_others(tmp_path: Path, told: dict[str, str]) -> None:
    days = [datetime.date(1500, 1, 10), datetime.date(1582, 10, 15), None]
    times = [datetime.datetime(1, 1, 3), datetime.datetime(1900, 1, 1), None]
    pairs = [[{"day": day}] for day in days]
    table = pa.table({"text": TEXTS, "day": days, "at": times, "pairs": pairs})
    path = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata(told), path)
    for name in ("day", "at", "pairs"):
        found = rows(path, carry=(name,))
        assert found.faults is not None
        assert found.faults.to_pylist() == ["carried_type", "", ""]
        assert found.columns.column(name).to_pylist()[1:] == table.column(name).to_pylist()[1:]
    pq.write_table(table.replace_schema_metadata({"org.apache.spark.version": "3.5.0"}), path)
    assert rows(path, carry=("day", "at", "pairs")).faults is None


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_time_that_no_clock_shows_is_not_carried(tmp_path: Path, unit: str) -> None:
    """A cast of Arrow makes a remark of it, in place of a time."""
    kind, stored = (pa.time32, pa.int32()) if unit in ("s", "ms") else (pa.time64, pa.int64())
    day = 86_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    whole = pa.array([day, None, 0], stored).cast(kind(unit))
    table = pa.table({"text": TEXTS, "at": whole, "seen": arrow_types.in_struct(whole)})
    pq.write_table(table, tmp_path / "a.parquet")
    for name in ("at", "seen"):
        found = rows(tmp_path / "a.parquet", carry=(name,))
        assert found.faults is not None
        assert found.faults.to_pylist() == ["carried_type", "", ""]


def test_an_interval_is_refused_by_name(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        query = "SELECT 'a' AS text, INTERVAL '1 month 2 days' AS spell, [INTERVAL '1 day'] AS spells"
        connection.execute(f"COPY ({query}) TO '{tmp_path}/a.parquet'")
    for name in ("spell", "spells"):
        with pytest.raises(SourceError, match=f"column '{name}' has a type .*interval"):
            surveyed(tmp_path / "a.parquet", carry=(name,))


def test_what_is_not_read_here_is_not_called_incomplete(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a"], "x": pl.Series([1], dtype=pl.Int128)}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="is a Parquet file that can't be read here .*64 bits"):
        surveyed(tmp_path / "a.parquet")
    path = tmp_path / "b.parquet"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(SourceError, match="is a pointer of Git LFS"):
        surveyed(path)


def test_durations_are_microseconds_whatever_their_unit(tmp_path: Path) -> None:
    """Files that differ in their units would share a column of integers, which has none."""
    spell = datetime.timedelta(days=1, seconds=1)
    for unit in ("s", "ms", "us", "ns"):
        spells = pa.array([spell, None, -spell], pa.duration(unit))
        nested = arrow_types.in_struct(arrow_types.in_map(arrow_types.in_list(spells)))
        pq.write_table(pa.table({"text": TEXTS, "spell": spells, "nested": nested}), tmp_path / "a.parquet")
        found = rows(tmp_path / "a.parquet", carry=("spell", "nested")).columns
        assert found.column("spell").to_pylist() == [86_401_000_000, None, -86_401_000_000]
        assert found.column("nested").to_pylist()[0]["of"][0][1][0] == 86_401_000_000
