"""`report.html`: what a run did, on one page that can be sent to a colleague.

Everything is O(shards) from plan and shard records, and a bounded sample of rows (`sample`, `texts`); no pass
over the data. Whatever goes wrong here never fails a run. Starts without Ray and torch.
"""

import datetime

from pipeline import telemetry
from pipeline.errors import one_line
from pipeline.operate.report.page import page
from pipeline.operate.report.subject import Subject

__all__ = ["Subject", "attempted", "page"]


def attempted(subject: Subject) -> bytes | None:
    """The page; None, and an event that says why, where it can't be made."""
    try:
        return page(subject, datetime.datetime.now(datetime.UTC))
    except Exception as error:  # the boundary: a run is not to fail for want of its report
        telemetry.event("report not made", reason=one_line(error))
        return None
