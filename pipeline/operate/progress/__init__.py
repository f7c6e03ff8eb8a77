"""Shows the progress of a run: a live display on a terminal, or a line now and then in a log.

`counts` and `stages` compute the figures, `log_line` and `display` format them, and `progress` decides when
and where they appear.
"""

from pipeline.operate.progress.counts import RunTotal
from pipeline.operate.progress.progress import Progress

__all__ = ["Progress", "RunTotal"]
