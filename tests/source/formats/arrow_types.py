"""Lists every type of Arrow with some values, bare and nested, as columns that a source may carry."""

import datetime
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from uuid import UUID

import pyarrow as pa

DAY, MOMENT = datetime.date(2026, 3, 29), datetime.datetime(2026, 3, 29, 1, 30, 0, 123_000)
NOON = datetime.time(12, 30, 15)
SPELL = datetime.timedelta(days=1, seconds=1)


def leaves() -> dict[str, pa.Array]:
    """Returns an array of three values, the second of them null, for each type."""
    plain = {
        "null": (pa.null(), None, None),
        "bool": (pa.bool_(), True, False),
        **{f"int{bits}": (getattr(pa, f"int{bits}")(), -(2 ** (bits - 1)), 7) for bits in (8, 16, 32, 64)},
        **{f"uint{bits}": (getattr(pa, f"uint{bits}")(), 2**bits - 1, 7) for bits in (8, 16, 32, 64)},
        **{f"float{bits}": (getattr(pa, f"float{bits}")(), 1.5, -0.25) for bits in (16, 32, 64)},
        "decimal32": (pa.decimal32(7, 2), Decimal("12345.67"), Decimal("-0.01")),
        "decimal64": (pa.decimal64(16, 3), Decimal("1234567890123.456"), Decimal("-0.001")),
        "decimal128": (pa.decimal128(38, 10), Decimal("1234567890123456789.0123456789"), Decimal(0)),
        "decimal256": (pa.decimal256(50, 2), Decimal("1.25"), Decimal(0)),
        **{name: (getattr(pa, name)(), "straße", "") for name in ("string", "large_string", "string_view")},
        **{
            name: (getattr(pa, name)(), b"\x00\xff", b"")
            for name in ("binary", "large_binary", "binary_view")
        },
        "fixed_binary": (pa.binary(2), b"\x00\xff", b"ab"),
        "date32": (pa.date32(), DAY, DAY),
        "date64": (pa.date64(), DAY, DAY),
        "time32[s]": (pa.time32("s"), NOON, NOON),
        "time32[ms]": (pa.time32("ms"), NOON, NOON),
        "time64[us]": (pa.time64("us"), NOON, NOON),
        "time64[ns]": (pa.time64("ns"), NOON, NOON),
        **{
            f"timestamp[{unit}, {zone}]": (
                pa.timestamp(unit, zone),
                MOMENT.replace(microsecond=0),
                MOMENT.replace(microsecond=0),
            )
            for unit in ("s", "ms", "us", "ns")
            for zone in (None, "UTC", "Europe/Berlin", "+05:30")
        },
        **{f"duration[{unit}]": (pa.duration(unit), SPELL, -SPELL) for unit in ("s", "ms", "us", "ns")},
        "interval": (pa.month_day_nano_interval(), pa.MonthDayNano([1, 2, 3]), pa.MonthDayNano([0, 0, 0])),
        "dictionary": (pa.dictionary(pa.int32(), pa.string()), "red", "green"),
        "dictionary of int": (pa.dictionary(pa.int8(), pa.int64()), 5, 6),
        "list": (pa.list_(pa.int32()), [1, None], []),
        "large_list": (pa.large_list(pa.int32()), [1, None], []),
        "list_view": (pa.list_view(pa.int32()), [1, None], [3]),
        "large_list_view": (pa.large_list_view(pa.int32()), [1, None], [3]),
        "fixed_list": (pa.list_(pa.int32(), 2), [1, None], [3, 4]),
        "map": (pa.map_(pa.string(), pa.int32()), [("a", 1), ("b", None)], []),
        "map of int": (pa.map_(pa.int32(), pa.string_view()), [(1, "x")], []),
        "struct": (
            pa.struct({"a": pa.int32(), "b": pa.string()}),
            {"a": 1, "b": None},
            {"a": None, "b": "x"},
        ),
        "struct by case": (
            pa.struct({"a": pa.int32(), "A": pa.string()}),
            {"a": 1, "A": None},
            {"a": 2, "A": ""},
        ),
        "empty struct": (pa.struct([]), {}, {}),
        "sparse union": (pa.sparse_union([pa.field("a", pa.int32())]), None, None),
    }
    arrays = {}
    for name, (kind, first, last) in plain.items():
        if not pa.types.is_union(kind):
            arrays[name] = pa.array([first, None, last], kind)
    storages = {
        "uuid": (pa.uuid(), pa.array([UUID(int=7).bytes, None, UUID(int=9).bytes], pa.binary(16))),
        "json": (pa.json_(), pa.array(['{"a": 1}', None, "[]"])),
        "bool8": (pa.bool8(), pa.array([1, None, 0], pa.int8())),
        "tensor": (
            pa.fixed_shape_tensor(pa.float32(), [2]),
            pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)),
        ),
        "opaque": (pa.opaque(pa.binary(), "geometry", "a vendor"), pa.array([b"a", None, b"b"])),
    }
    arrays |= {name: kind.wrap_array(storage) for name, (kind, storage) in storages.items()}
    arrays["run-end encoded"] = pa.RunEndEncodedArray.from_arrays([2, 3], ["x", "y"])
    arrays["union"] = pa.UnionArray.from_sparse(pa.array([0, 0, 0], pa.int8()), [pa.array([1, 2, 3])])
    return arrays


def in_struct(array: pa.Array) -> pa.Array:
    mask = pa.array([False, False, True])
    return pa.StructArray.from_arrays([array], fields=[pa.field("of", array.type)], mask=mask)


def in_list(array: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, 2, None, 3], pa.int32()), array)


def in_map(array: pa.Array) -> pa.Array:
    return pa.MapArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), pa.array(["k", "l", "k"]), array)


NESTINGS: dict[str, Callable[[pa.Array], pa.Array]] = {"struct": in_struct, "list": in_list, "map": in_map}


def columns() -> Iterator[tuple[str, pa.Array]]:
    """Yields each type by name: bare, and nested in one and in two of a struct, a list and a map."""
    for name, array in leaves().items():
        yield name, array
        for outer, wrap in NESTINGS.items():
            yield f"{outer} of {name}", wrap(array)
            for outest, again in NESTINGS.items():
                yield f"{outest} of {outer} of {name}", again(wrap(array))


def plain(value: object) -> object:
    """Returns a value in a form that does not depend on its type: `1` and `1.00` become equal."""
    if isinstance(value, datetime.datetime):
        return (
            value.astimezone(datetime.UTC).replace(tzinfo=None).isoformat() + "Z" if value.tzinfo else value
        )
    if isinstance(value, datetime.timedelta):
        return Decimal(value // datetime.timedelta(microseconds=1))
    if isinstance(value, datetime.time):
        return value.isoformat()
    if isinstance(value, str):
        return re.sub(r"^(\d\d:\d\d:\d\d)\.0+$", r"\1", value)
    if isinstance(value, UUID):
        return value.bytes
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return Decimal(value) if isinstance(value, int | Decimal) else value
