"""What a person sees while a run goes on: a live display on a terminal, a line now and then in a log.

`figures` and `stages` know what there is to say, `lines` and `display` how; `show` when and where.
"""

from pipeline.progress.figures import Total
from pipeline.progress.show import Progress

__all__ = ["Progress", "Total"]
