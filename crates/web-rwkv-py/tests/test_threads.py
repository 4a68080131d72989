"""The GIL is released in every computation, and threads may share a model."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import web_rwkv_py as wrp
from conftest import EMBEDDED

TOKENS = [1 + i * 37 % 8000 for i in range(200)]
MAIL = "Your order ORD-7 ships on 12 June. " * 20

COMPUTATIONS: dict[str, Callable[[wrp.Model], object]] = {
    "open": lambda m: wrp.Model(EMBEDDED),
    "run": lambda m: m.run(TOKENS),
    "run_full": lambda m: m.run_full(TOKENS),
    "embed": lambda m: m.embed(TOKENS),
    "embed_batch": lambda m: m.embed_batch([TOKENS, TOKENS[:9]]),
    "generate": lambda m: m.generate("User:", 20),
    "extract": lambda m: m.extract(MAIL, {"order_number": "number of the order"}),
    "encode": lambda m: m.tokenizer.encode(MAIL * 1000),
    "back_state": lambda m: [m.back_state() for _ in range(50)],
}


@pytest.fixture
def no_switching() -> Iterator[None]:
    """Threads switch only where one gives the GIL up by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("no_switching")
@pytest.mark.parametrize("name", COMPUTATIONS)
def test_others_go_on_while_a_model_computes(model: wrp.Model, name: str) -> None:
    inside = done = False

    def compute() -> None:
        nonlocal inside, done
        inside = True
        COMPUTATIONS[name](model)
        inside, done = False, True

    thread = threading.Thread(target=compute)
    thread.start()
    counted = 0
    while not done:
        counted += inside
        time.sleep(0)  # gives the GIL up; the other thread has it until it does the same
    thread.join()
    # As nothing takes the GIL from a thread here, to be inside and to count is to have had it released.
    assert counted > 0


def test_two_models_overlap(model: wrp.Model) -> None:
    other = wrp.Model(EMBEDDED, threads=1)
    # Each waits in the middle of its work until the other is in the middle of its own.
    meeting = threading.Barrier(2, timeout=60)

    def run(m: wrp.Model) -> list[float]:
        met: list[int] = []

        def progress(read: int, total: int) -> None:
            if read < total and not met:
                met.append(meeting.wait())

        return m.run(TOKENS, 50, progress=progress)

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(run, [model, other])
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_eight_threads_share_a_model(model: wrp.Model) -> None:
    sequences = [TOKENS[i : 60 + 3 * i] for i in range(8)]
    state = model.init_state()

    def work(tokens: list[int]) -> tuple[bytes, ...]:
        return (
            model.embed(tokens).tobytes(),
            model.embed(tokens[5:], state=state).tobytes(),
            model.embed_batch([tokens, tokens[:3]], pool="mean")[0].tobytes(),
            model.generate(tokens, 5, temperature=0, state=state).encode(),
            str(model.extract(MAIL[: len(tokens)], {"a": "the order"})["a"]).encode(),
            bytes(model.tokenizer.decode(tokens)),
        )

    want = list(map(work, sequences))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, sequences)) == want
    assert model.back_state() == state


def test_eight_threads_take_turns_at_the_live_state(model: wrp.Model) -> None:
    want = [model.run(TOKENS[:20]) for _ in range(8)]
    state = model.back_state()
    model.clear_state()
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: model.run(TOKENS[:20]), range(8)))
    # Whoever came first: eight runs, one after another.
    assert sorted(got) == sorted(want)
    assert model.back_state() == state
