"""Exports metrics for Prometheus by Ray's own exporter: each is `ray_embed_<name>`, counters end in `_total`.

The workers count where a split is done; the label is the dataset. docs/kubernetes.md lists the metrics, and
k8s/monitoring/ has their dashboard and alerts.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from string import punctuation
from urllib.parse import quote

from ray.util.metrics import Counter, Gauge

from pipeline import telemetry
from pipeline.dataset.record import COUNTERS, Failure, ShardRecord, Sum, summed
from pipeline.embed.job import Job

PLAIN = punctuation.replace("%", "") + " "
"""The characters that stand for themselves in a tag, besides letters and digits."""


def count(job: Job, done: ShardRecord | Failure) -> None:
    """Counts a split that has left the flow."""
    dataset = _dataset(job)
    if isinstance(done, Failure):
        _counter("splits", "Splits that left the flow.", "outcome").inc(1, {**dataset, "outcome": "failed"})
        return
    _counter("splits", "Splits that left the flow.", "outcome").inc(1, {**dataset, "outcome": "done"})
    for name, description in COUNTERS.items():
        _inc(_counter(name, description), getattr(done, name), dataset)
    spent = _counter("stage_seconds", "Seconds of work by stage; idle: replicas that wait.", "stage")
    for name in summed(Sum.SECONDS):
        _inc(spent, getattr(done, name), {**dataset, "stage": name.removesuffix("_seconds")})


@contextmanager
def storage(job: Job) -> Iterator[None]:
    """Counts the storage requests made within the context, and their repetitions by reason."""
    requests, retries = Tally(telemetry.requests), Tally(telemetry.retries)
    try:
        yield
    finally:
        for operation, number in (telemetry.requests - requests).items():
            counter = _counter("storage_requests", "Requests to storage.", "operation")
            counter.inc(number, _dataset(job) | {"operation": operation})
        for reason, number in (telemetry.retries - retries).items():
            counter = _counter("storage_retries", "Requests made again.", "reason")
            counter.inc(number, _dataset(job) | {"reason": reason})


def standing(job: Job, pending: int, failed: int) -> None:
    """Sets the gauges of progress, in the driver."""
    _gauge("pending_splits", "Splits that are not done.").set(pending, _dataset(job))
    _gauge("failed_splits", "Splits that could not be done.").set(failed, _dataset(job))


def quiet(job: Job, silent: float) -> None:
    """Sets the gauge of the time without a sign of life, in the driver."""
    _gauge("quiet_seconds", "Seconds since a micro-batch, a read or a write.").set(silent, _dataset(job))


def _dataset(job: Job) -> dict[str, str]:
    return {"dataset": ascii_tag(job.config.output.path)}


def ascii_tag(text: str) -> str:
    """Returns a text as Ray accepts it in a tag, in ASCII; different texts stay different.

    All but visible ASCII is percent-encoded as in a URL, and so is `%` itself.
    """
    return quote(text, safe=PLAIN, errors="surrogatepass")


def _inc(counter: Counter, number: float, tags: dict[str, str]) -> None:
    if number > 0:  # Ray refuses to add zero
        counter.inc(number, tags)


@cache
def _counter(name: str, description: str, *tags: str) -> Counter:
    return Counter(f"embed_{name}", description, ("dataset", *tags))


@cache
def _gauge(name: str, description: str) -> Gauge:
    return Gauge(f"embed_{name}", description, ("dataset",))
