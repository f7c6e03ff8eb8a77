"""Listings as we parse them are as botocore parses them."""

from typing import Any

import pytest

from pipeline import storage
from pipeline.storage import pages

NAMES = ("plain", "with space", "a&b<c>\"d'", "ümläut/é", "100%25", "plus+sign", "日本", "semi;colon")


def test_entries_are_as_botocore_makes_them(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(NAMES):
        storage.connect(bucket).put(f"{bucket}/{name}", b"x" * number)
    ours = _listed(bucket)
    with monkeypatch.context() as patch:
        patch.setattr(pages, "OPERATION", "none")
        theirs = _listed(bucket)
    assert [{key: entry[key] for key in found} for entry, found in zip(theirs, ours, strict=True)] == ours
    assert sorted(entry["Key"] for entry in ours) == sorted(NAMES)


def test_an_answer_of_another_kind_is_left_to_botocore() -> None:
    class Model:
        name = pages.OPERATION

    for status, body in [
        (200, b"<Error><Code>SlowDown</Code></Error>"),
        (200, b"<ListBucketResult><Contents><Key>cut off"),
        (200, b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>"),
        (503, b"<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"),
    ]:
        answer, made = {"status_code": status, "body": body}, dict[str, Any]()
        pages._parse(Model, answer, made)
        assert answer["body"] == body
        assert not made


def _listed(bucket: str) -> list[dict[str, Any]]:
    filesystem = storage.connect(bucket).filesystem
    answer = filesystem.call_s3("list_objects_v2", Bucket=bucket.removeprefix("s3://"))
    return list(answer["Contents"])
