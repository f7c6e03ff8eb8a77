"""Parses pages of an S3 listing several times as fast as botocore.

botocore parses a page of a thousand entries twice, walks its model of the answer for each entry, and reads
dates with dateutil: the listing of a million shards would wait for the processor instead of storage. Here
Expat parses a page once, before botocore does, and only fields that are used become objects.
"""

import datetime
from typing import Any
from xml.etree import ElementTree

from botocore.utils import parse_timestamp

EVENT = "before-parse.*.*"
"""The event of every operation: botocore's own handler is registered so, too, and ours must run before it."""
OPERATION = "ListObjectsV2"
LISTING = "ListBucketResult"


def parse_early(client: Any) -> None:
    """Makes a client parse its pages of listings here."""
    client.meta.events.register_first(EVENT, _parse)


def _parse(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Takes the entries out of an answer, and leaves the rest of it to botocore.

    An unexpected answer stays as it is, and botocore parses all of it.
    """
    if operation_model.name != OPERATION or response_dict["status_code"] != 200:
        return
    try:
        page = ElementTree.fromstring(response_dict["body"])
        space = page.tag.removesuffix(LISTING)
        entries = [_entry(entry, space) for entry in page.iterfind(f"{space}Contents")]
    except (ElementTree.ParseError, LookupError, TypeError, ValueError):
        return
    if page.tag != f"{space}{LISTING}" or not entries:
        return
    page[:] = [child for child in page if child.tag != f"{space}Contents"]
    response_dict["body"] = ElementTree.tostring(page)
    customized_response_dict["Contents"] = entries


def _entry(entry: ElementTree.Element, space: str) -> dict[str, Any]:
    found = {child.tag: child.text for child in entry}
    return {
        "Key": found[f"{space}Key"] or "",
        "Size": int(found[f"{space}Size"] or ""),
        "ETag": found.get(f"{space}ETag") or "",
        "LastModified": _time(found.get(f"{space}LastModified") or ""),
        "StorageClass": found.get(f"{space}StorageClass") or "STANDARD",
    }


def _time(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)  # type: ignore[no-any-return]
