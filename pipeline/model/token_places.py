"""Says where each token stands in its text. Pure NumPy.

Shapes: T tokens of all sequences, N rows, S sequences.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.ragged import Ints, sums

PLACE = np.dtype([("start", "<i4"), ("stop", "<i4"), ("joined", "?")])
"""The place of a token: its range of code points in the text, and whether it goes on with the word of the
token before, as transformers decides it."""
NOWHERE = -1
"""The start of a token that is none of its text's: special ones, those of a prefix, and those that another
window of the text decides."""
Places = npt.NDArray[np.void]
"""The places of tokens, (T,) of `PLACE`."""


def nowhere(tokens: int) -> Places:
    """Returns the places of tokens that are none of a text's."""
    places_T = np.zeros(tokens, PLACE)
    places_T["start"] = NOWHERE
    return places_T


@dataclass(frozen=True, slots=True)
class PlacedTokens:
    """The tokens of N rows, without their ids.

    places: (T,) those of all tokens.  lengths: (N,) the tokens of each row.
    """

    places: Places
    lengths: Ints

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Tells which tokens are their text's, (T,)."""
        return np.asarray(self.places["start"] != NOWHERE)

    @property
    def kept_lengths(self) -> Ints:
        """Returns the number of each row's own tokens, (N,)."""
        return sums(self.kept, self.lengths)


def of_rows(places_T: Places, lengths_S: Ints, chunks_N: Ints | None) -> PlacedTokens:
    """Returns the tokens of rows, each of which is one sequence, or as many as `chunks_N` says."""
    return PlacedTokens(places_T, lengths_S if chunks_N is None else sums(lengths_S, chunks_N))
