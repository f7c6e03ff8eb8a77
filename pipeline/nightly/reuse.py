"""What a dataset takes from an older one, its base, instead of embedding it again.

Whole shards are copied by storage where nothing of their split changed and the datasets are alike in all that
counts: the same dataset digest, the same columns, nothing that a second try may mend. Else single vectors
are taken by the hash of their text, under an equal vector digest; every other column comes from the new
source. Of a document in windows, all windows are taken or none.

The base is named in `dataset.json`, so every driver of a dataset, a resume or a rival, uses the same one.

A base belongs to others: it may be damaged, pruned, made again with another model, or forged. So it is
checked where something is taken from it, not only where it is chosen; and whatever is wrong with it costs
reuse alone (`unless_damaged`).
"""

from pipeline.nightly.base import Base, Digests, base_of
from pipeline.nightly.choose_base import adopted, chosen, usable
from pipeline.nightly.copy_shards import copy, copyable
from pipeline.nightly.documents import load, matched, packed

__all__ = [
    "Base",
    "Digests",
    "adopted",
    "base_of",
    "chosen",
    "copy",
    "copyable",
    "load",
    "matched",
    "packed",
    "usable",
]
