"""Pages of an S3 listing, parsed several times as fast as botocore does.

botocore parses a page of a thousand entries twice, walks its model of the answer for each of them, and reads
their dates with dateutil: the listing of a million shards would wait for the processor and not for storage.
Here Expat does it once, before botocore comes to it, and only the fields are made that somebody reads.
"""

import datetime
from typing import Any
from xml.etree import ElementTree

from botocore.utils import parse_timestamp

EVENT = "before-parse.*.*"
"""Of every operation, for so does botocore's own look at each answer, and ours must be before it."""
OPERATION = "ListObjectsV2"
LISTING = "ListBucketResult"


def parse_early(client: Any) -> None:
    """Have a client's pages of listings parsed here."""
    client.meta.events.register_first(EVENT, _parse)


def _parse(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Take the entries out of an answer, and leave botocore the rest of it.

    An answer that is not as expected is left as it is: what botocore makes of it counts.
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
