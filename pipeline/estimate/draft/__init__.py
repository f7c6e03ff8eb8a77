"""Drafts the config of a job from a look at its source: `look` finds files and format, `columns` the columns.

A draft is a start: what is a guess says so in its comment, with what it rests on.
"""

from pipeline.estimate.draft.page import draft

__all__ = ["draft"]
