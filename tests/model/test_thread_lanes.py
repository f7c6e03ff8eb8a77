"""Checks that lanes run at the same time with one torch thread each, and do not change other threads."""

from threading import Barrier, get_ident

import pytest
import torch

from pipeline.model.thread_lanes import SerialRunner, ThreadPool


def test_lanes_run_side_by_side() -> None:
    meeting = Barrier(3)  # one by one they would wait here for ever
    lanes = ThreadPool(3)
    finished = [lanes.begin(meeting.wait, 30) for _ in range(3)]
    assert sorted(each() for each in finished) == [0, 1, 2]


def test_each_has_one_thread_of_torch_and_the_others_keep_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        lanes = ThreadPool(2)
        together = Barrier(2)

        def threads() -> int:
            together.wait(30)  # otherwise one lane might answer for both
            return torch.get_num_threads()

        assert [each() for each in [lanes.begin(threads), lanes.begin(threads)]] == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    finished = ThreadPool(1).begin(int, "no number")
    with pytest.raises(ValueError, match="no number"):
        finished()


def test_a_gpu_is_driven_by_the_thread_that_asks() -> None:
    assert SerialRunner().begin(get_ident)() == get_ident()
