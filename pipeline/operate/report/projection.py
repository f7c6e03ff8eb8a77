"""Projects vectors to points on a plane, and chooses their colours. Pure NumPy.

Shapes: N rows, D dimensions, P principal components.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.model.outputs.embedding import Vectors
from pipeline.ragged import Ints

NAMED = 8
"""Values that have a colour of their own."""
FEW = range(2, 13)
"""Numbers of distinct values with which a column divides the rows well."""
LEAST_NAMED = 0.1
"""The least fraction of rows that the named values of any other column must have."""
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Projection:
    """The (N, 2) points, and the fraction of the variance on each of the two axes."""

    points: npt.NDArray[np.float64]
    explained: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Colours:
    """The colours of the points: a column, its named values, and the number of each row's value.

    of_rows: the numbers; -1 for a value without a name.
    """

    column: str
    names: tuple[str, ...]
    of_rows: Ints


def project(vectors_ND: Vectors) -> Projection | None:
    """Returns the first two principal components; None for fewer than three vectors, or equal ones.

    Each axis points to where its greatest weight is positive, so that the same vectors give the same picture.
    """
    if min(vectors_ND.shape) < 2 or len(vectors_ND) < 3:
        return None
    centred_ND = vectors_ND.astype(np.float64) - vectors_ND.mean(axis=0, dtype=np.float64)
    left_NP, spread_P, right_PD = np.linalg.svd(centred_ND, full_matrices=False)
    variance = float((spread_P**2).sum())
    if variance < 1e-12:
        return None
    heaviest_2 = np.abs(right_PD[:2]).argmax(axis=1)
    signs_2 = np.where(right_PD[[0, 1], heaviest_2] < 0, -1.0, 1.0)
    first, second = (float(value) for value in spread_P[:2] ** 2 / variance)
    return Projection(left_NP[:, :2] * spread_P[:2] * signs_2, (first, second))


def colours(columns: Mapping[str, Sequence[object]], sources: Sequence[str]) -> Colours:
    """Chooses what to colour rows by: a column of few values, else the sources, else frequent values.

    Args:
        columns: carried columns, in the order of the config; of equally good ones the first is taken.
        sources: the source of each row.
    """
    counted = {name: Counter(map(_told, values)) for name, values in columns.items()}
    for name, values in counted.items():
        if len(values) in FEW:
            return _coloured(name, columns[name], values)
    by_source = Counter(sources)
    if len(by_source) == 1 and counted:
        named = {name: sum(rows for _, rows in _frequent(values)) for name, values in counted.items()}
        best = max(named, key=lambda name: named[name])
        if len(counted[best]) in (1, *FEW) or named[best] < LEAST_NAMED * len(sources):
            return _coloured("source", sources, by_source)
        return _coloured(best, columns[best], counted[best])
    return _coloured("source", sources, by_source)


def _coloured(column: str, values: Sequence[object], counted: Counter[str]) -> Colours:
    names = tuple(name for name, _ in _frequent(counted))
    place = {name: number for number, name in enumerate(names)}
    return Colours(column, names, np.array([place.get(_told(value), -1) for value in values], np.int64))


def _frequent(values: Counter[str]) -> list[tuple[str, int]]:
    """Returns the most frequent values, by name if equal; if there are many, none that occurs only once."""
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))[:NAMED]
    return [(name, rows) for name, rows in ranked if rows > 1 or len(values) <= NAMED]


def _told(value: object) -> str:
    return "(none)" if value is None else str(value)
