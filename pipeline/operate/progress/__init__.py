"""What a person sees while a run goes on: a live display on a terminal, a line now and then in a log.

`counts` and `stages` know what there is to say, `log_line` and `display` how; `progress` when and where.
"""

from pipeline.operate.progress.counts import RunTotal
from pipeline.operate.progress.progress import Progress

__all__ = ["Progress", "RunTotal"]
