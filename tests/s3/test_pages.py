"""Tests that our parser of listings gives the same as botocore's."""

from bisect import bisect_right
from typing import Any

import pytest

from pipeline import storage
from pipeline.storage import s3_listing

NAMES = ("plain", "with space", "a&b<c>\"d'", "ümläut/é", "100%25", "plus+sign", "日本", "semi;colon")


def test_entries_are_as_botocore_makes_them(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(NAMES):
        storage.connect(bucket).put(f"{bucket}/{name}", b"x" * number)
    ours = _listed(bucket)
    with monkeypatch.context() as patch:
        patch.setattr(s3_listing, "OPERATION", "none")
        theirs = _listed(bucket)
    assert [{key: entry[key] for key in found} for entry, found in zip(theirs, ours, strict=True)] == ours
    assert sorted(entry["Key"] for entry in ours) == sorted(NAMES)


def test_an_answer_of_another_kind_is_left_to_botocore() -> None:
    class Model:
        name = s3_listing.OPERATION

    for status, body in [
        (200, b"<Error><Code>SlowDown</Code></Error>"),
        (200, b"<ListBucketResult><Contents><Key>cut off"),
        (200, b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>"),
        (503, b"<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"),
    ]:
        answer, made = {"status_code": status, "body": body}, dict[str, Any]()
        s3_listing._parse(Model, answer, made)
        assert answer["body"] == body
        assert not made


def _listed(bucket: str) -> list[dict[str, Any]]:
    filesystem = storage.connect(bucket).filesystem
    answer = filesystem.call_s3("list_objects_v2", Bucket=bucket.removeprefix("s3://"))
    return list(answer["Contents"])


def test_a_page_without_entries_is_not_the_last(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon sends such pages after many removals. No available server does, so the test makes them."""
    filesystem = storage.connect(bucket).filesystem
    keys = [f"data/{name}" for name in "abcde"]

    async def sparse(_: str, StartAfter: str = "", ContinuationToken: str = "", **__: Any) -> dict[str, Any]:
        """Answers with an empty page, then with two keys a page; a token counts the earlier keys."""
        behind = int(ContinuationToken or bisect_right(keys, StartAfter))
        stop = behind + 2 if ContinuationToken else behind
        going_on = {"IsTruncated": True, "NextContinuationToken": str(stop)} if stop < len(keys) else {}
        entries = [{"Key": key, "Size": 1, "ETag": '"1"', "LastModified": None} for key in keys[behind:stop]]
        return {"Contents": entries} | going_on

    monkeypatch.setattr(filesystem, "_call_s3", sparse)
    for edges in ([], ["b", "d"], ["a", "e", "f"]):
        found = [info.path.rpartition("/")[2] for info in filesystem.files_in(f"{bucket}/data", edges)]
        assert sorted(found) == list("abcde"), edges


def test_a_listing_that_breaks_off_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = storage.connect(bucket)

    async def cut(*_: Any, **__: Any) -> dict[str, Any]:
        return {"IsTruncated": True, "Contents": []}

    monkeypatch.setattr(store.filesystem, "_call_s3", cut)
    with pytest.raises(OSError, match="ends before its end"):
        store.filesystem.files_in(f"{bucket}/data", [])
