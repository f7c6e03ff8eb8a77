"""Makes `report.html`: what a run did, on one page that can be sent to a colleague.

Everything comes from plan and shard records in O(shards), and from a bounded sample of rows (`sample`,
`texts`), without a pass over the data. No error here fails a run. Starts without Ray and torch.
"""

import datetime

from pipeline import telemetry
from pipeline.errors import one_line
from pipeline.operate.report.page import page
from pipeline.operate.report.subject import Subject

__all__ = ["Subject", "attempted", "page"]


def attempted(subject: Subject) -> bytes | None:
    """Returns the page; if it can't be made, logs the reason as an event and returns None."""
    try:
        return page(subject, datetime.datetime.now(datetime.UTC))
    except Exception as error:  # the boundary: a run must not fail because of its report
        telemetry.event("report not made", reason=one_line(error))
        return None
