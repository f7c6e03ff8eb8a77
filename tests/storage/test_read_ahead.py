"""Tests of reading ahead: all reads give the right bytes, and little more than was read is requested."""

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pipeline.storage.read_ahead import Ahead

DATA = random.Random(0).randbytes(10_000)
PART = 700


class Requests:
    """Records requests; answers them at once, or leaves them open while `hold`."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.open: list[Future[bytes]] = []
        self.hold = False
        self.failing = False

    def __call__(self, start: int, stop: int) -> Future[bytes]:
        self.asked.append((start, stop))
        answer: Future[bytes] = Future()
        if self.failing:
            answer.set_exception(OSError("no"))
        elif self.hold:
            self.open.append(answer)
        else:
            answer.set_result(DATA[start:stop])
        return answer

    @property
    def bytes(self) -> int:
        return sum(stop - start for start, stop in self.asked)


@pytest.fixture
def requests() -> Requests:
    return Requests()


@pytest.fixture
def ahead(requests: Requests) -> Ahead:
    return Ahead(requests, len(DATA), PART)


@pytest.mark.parametrize("seed", range(50))
def test_any_reads_give_the_right_bytes(seed: int, requests: Requests, ahead: Ahead) -> None:
    chance, position, read = random.Random(seed), 0, 0
    for _ in range(60):
        if chance.random() < 0.2 or position >= len(DATA):
            position = chance.randrange(len(DATA))
        stop = position + chance.randrange(1, 1500)
        assert ahead.read(position, stop) == DATA[position:stop]
        position, read = stop, read + len(DATA[position:stop])
    assert requests.bytes <= 2 * read


@pytest.mark.parametrize("size", [1, 64, 700, 1000])
def test_who_reads_on_asks_for_every_byte_once(size: int, requests: Requests, ahead: Ahead) -> None:
    got = [ahead.read(start, min(start + size, len(DATA))) for start in range(0, len(DATA), size)]
    assert b"".join(got) == DATA
    edges = sorted(requests.asked)
    assert [start for start, _ in edges] == [0, *(stop for _, stop in edges[:-1])]
    assert edges[-1][1] == len(DATA)
    if size < PART:
        assert len(edges) < 30 + len(DATA) / PART


def test_what_is_there_is_not_asked_for(requests: Requests) -> None:
    ahead = Ahead(requests, len(DATA), PART, DATA)
    for start in (9000, 0, 5000, 200):
        assert ahead.read(start, start + 2000) == DATA[start : start + 2000]
    assert requests.asked == []
    ahead = Ahead(requests, len(DATA), PART, DATA[:1000])
    assert ahead.read(900, 1100) == DATA[900:1100]
    assert requests.asked == [(1000, 1100)]


def test_who_jumps_about_asks_for_no_more_than_he_reads(requests: Requests, ahead: Ahead) -> None:
    for start in (9000, 0, 5000, 200):
        ahead.read(start, start + 100)
    assert requests.asked == [(9000, 9100), (0, 100), (5000, 5100), (200, 300)]


def test_what_was_asked_for_in_vain_is_dropped_and_its_failure_with_it(
    requests: Requests, ahead: Ahead
) -> None:
    ahead.read(0, 100)
    requests.hold = True
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(ahead.read, 100, 200)
        while not requests.open:
            time.sleep(0.001)
        requests.open[0].set_result(DATA[100:200])
        assert second.result() == DATA[100:200]
    _, beyond = requests.open
    requests.hold = False
    assert ahead.read(5000, 5100) == DATA[5000:5100]
    assert beyond.cancelled()


def test_what_fails_ahead_of_the_reader_fails_when_he_comes_there(requests: Requests, ahead: Ahead) -> None:
    ahead.read(0, 100)
    ahead.read(100, 200)  # [200, 300) has arrived, too
    requests.failing = True
    assert ahead.read(200, 300) == DATA[200:300]
    with pytest.raises(OSError):
        ahead.read(300, 400)
    requests.failing = False
    assert ahead.read(300, 400) == DATA[300:400]
