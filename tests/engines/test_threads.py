"""Parts of a batch run side by side and give what they give one after the other."""

from __future__ import annotations

import subprocess
import sys
from threading import current_thread, main_thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nctool import threads
from nctool.fast.choice import FLOAT, Choice
from nctool.fast.engine import FastEngine
from nctool.reference.simulate import simulate
from nctool.reference.trace import join, join_summaries
from nctool.threads import on_one_thread, side_by_side
from tests.support.networks import random_network, random_pixels, seeds


def on_threads(network, n_threads: int, part: int, choice: Choice | None = None) -> FastEngine:
    engine = FastEngine(network, choice=choice)
    engine.n_threads, engine.part, engine.batch = n_threads, part, n_threads * part
    return engine


@given(seeds, st.integers(2, 4), st.integers(1, 3), st.sampled_from([FLOAT, None]))
def test_a_network_on_several_threads(seed: int, n_threads: int, part: int, choice: Choice | None) -> None:
    network = random_network(seed)
    pixels = random_pixels(network, 7, seed)
    engine, expected = on_threads(network, n_threads, part, choice), simulate(network, pixels)
    assert join(engine.traces(pixels)) == expected
    assert join_summaries(engine.summaries(pixels)) == expected.summary()


def test_every_part_has_a_thread_and_torch_uses_that_alone() -> None:
    """A part waits until both are at work, so they are on two threads."""
    from threading import Barrier

    both = Barrier(2, timeout=60)

    def look(number: int) -> tuple[int, int, str]:
        both.wait()
        return number, torch.get_num_threads(), current_thread().name

    found = side_by_side(look, [0, 1], 2)
    assert [(number, n_threads) for number, n_threads, _ in found] == [(0, 1), (1, 1)]
    assert len({name for _, _, name in found} | {main_thread().name}) == 3


def test_a_batch_is_shared_where_there_is_work_for_several_threads() -> None:
    network = random_network(0)
    pixels = random_pixels(network, 9)
    engine = on_threads(network, 4, 8)
    engine.work = 1
    assert [len(part) for part in engine._parts(pixels[:8])] == [8]
    assert [len(part) for part in engine._parts(pixels)] == [5, 4]
    engine.work = 2**27
    assert [len(part) for part in engine._parts(pixels)] == [3, 3, 3]
    assert [len(part) for part in engine._parts(pixels[:3])] == [1, 1, 1]
    assert len(list(engine.traces(pixels))) == 1


def test_little_work_stays_on_one_thread(monkeypatch) -> None:
    seen = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with on_one_thread():
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())
        monkeypatch.setattr(threads, "_openmp", lambda: None)
        with on_one_thread():
            seen.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, 2]


def test_an_error_of_a_part_comes_out() -> None:
    def fail(number: int) -> None:
        raise ValueError(f"part {number}")

    with pytest.raises(ValueError, match="part 0"):
        side_by_side(fail, [0, 1], 2)


def test_a_process_that_forks_has_threads_of_its_own() -> None:
    script = """
import os
from nctool.threads import side_by_side
print(side_by_side(lambda number: number + 1, [0, 1, 2], 2), flush=True)
child = os.fork()
if child == 0:
    print(side_by_side(lambda number: number + 2, [0, 1, 2], 2), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == ["[1, 2, 3]", "[2, 3, 4]"]


def test_precision_is_that_of_the_caller_again_while_it_holds_a_batch() -> None:
    network = random_network(3)
    pixels = random_pixels(network, 6)
    torch.set_float32_matmul_precision("medium")
    try:
        for trace in on_threads(network, 2, 1, FLOAT).traces(pixels):
            assert torch.get_float32_matmul_precision() == "medium"
            assert not torch.is_inference_mode_enabled()
            assert trace.n_samples == 2
    finally:
        torch.set_float32_matmul_precision("highest")
