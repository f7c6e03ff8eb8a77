"""Makes a seekable file of requests for ranges of one object."""

import io

from pipeline.storage.read_ahead import Ahead, Request


class ObjectFile(io.RawIOBase):
    """An object to read, in the version that it had when it was opened, or listed.

    Args:
        part: the most bytes to read ahead.  first: the object's first bytes, if they are known.
    """

    def __init__(self, request: Request, size: int, part: int, first: bytes = b"") -> None:
        self.size, self.position = size, 0
        self.ahead = Ahead(request, size, part, first)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else self.position + size
        data = self.ahead.read(self.position, stop)
        self.position += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self.ahead.drop()
        super().close()
