"""Writes shard records to storage during a run, so that a resume need not read footers."""

import time

from pipeline import telemetry
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.record import ShardRecord, parquet_bytes, to_table
from pipeline.errors import (
    StorageError,
)

FLUSH_SECONDS = 60


class Ledger:
    """A buffer of shard records that is written to storage once a minute."""

    def __init__(self, dataset: Dataset, attempt: str) -> None:
        self.dataset, self.attempt = dataset, attempt
        self.waiting: list[ShardRecord] = []
        self.files, self.flushed = 0, time.monotonic()

    def add(self, record: ShardRecord) -> None:
        """Adds a record, and writes all waiting ones if the last write is a minute old."""
        self.waiting.append(record)
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting records."""
        if self.waiting:
            path = self.dataset.layout.ledger_file(self.attempt, self.files)
            try:
                self.dataset.storage.put(path, parquet_bytes(to_table(self.waiting)))
            except StorageError as error:  # the shards are safe, and their footers say the same
                telemetry.event("ledger not written", reason=str(error))
            else:
                self.files += 1
                self.waiting = []
        self.flushed = time.monotonic()
