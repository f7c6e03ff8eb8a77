"""Reads ahead: while a reader uses one part of an object, the next part is on its way.

It reads ahead only if reads follow each other, and never more than was read in a row before, nor more than a
part. So random reads cost nothing extra, and a reader that stops has fetched at most twice what it read.
Reading ahead costs the memory of two parts.
"""

from collections.abc import Callable
from concurrent.futures import Future

Request = Callable[[int, int], Future[bytes]]
"""A function that requests the bytes [start, stop)."""


class Ahead:
    """The bytes of one object, by one reader at a time.

    Args:
        part: the most bytes to have on their way.  first: the object's first bytes, if they are known.
    """

    def __init__(self, request: Request, size: int, part: int, first: bytes = b"") -> None:
        self.request, self.size, self.part = request, size, part
        self.position, self.in_a_row = -1, 0
        self.at, self.held = 0, first
        self.coming: tuple[int, Future[bytes]] | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Returns the bytes [start, stop), as far as the object has them."""
        stop = min(stop, self.size)
        self.in_a_row = self.in_a_row + stop - start if start == self.position else 0
        self.position = stop
        if not self.in_a_row and not self._holds(start):
            self.drop()
        pieces = []
        while start < stop:
            pieces.append(self._next(start, stop))
            start += len(pieces[-1])
        if self.in_a_row and not self.coming:
            self._look_ahead(max(stop, self.at + len(self.held)))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def drop(self) -> None:
        """Discards what was read ahead."""
        if self.coming:
            self.coming[1].cancel()
        self.coming, self.at, self.held = None, 0, b""

    def _next(self, start: int, stop: int) -> bytes:
        """Returns at least some bytes from `start` on: held ones, coming ones, or else requested ones."""
        if self.coming and self.coming[0] == start:
            self.at, self.held, self.coming = start, self.coming[1].result(), None
            self._look_ahead(start + len(self.held))
        if self._holds(start):
            return self.held[start - self.at : stop - self.at]
        if self.coming and self.coming[0] < stop:
            stop = max(start + 1, self.coming[0])
        return self.request(start, stop).result()

    def _holds(self, start: int) -> bool:
        return self.at <= start < self.at + len(self.held)

    def _look_ahead(self, start: int) -> None:
        stop = min(start + min(self.in_a_row, self.part), self.size)
        if start < stop:
            self.coming = start, self.request(start, stop)
