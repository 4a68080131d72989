"""Every failure is an exception of the right family, and leaves the model as it was."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import web_rwkv_py as wrp
from conftest import EMBEDDED


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (wrp.ModelFileError, OSError),
        (wrp.InvalidModelError, ValueError),
        (wrp.RequestError, ValueError),
        (wrp.DeviceError, RuntimeError),
    ],
)
def test_families(error: type[Exception], family: type[Exception]) -> None:
    assert issubclass(error, wrp.RwkvError)
    assert issubclass(error, family)


def test_files(model: wrp.Model, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for work in (wrp.Model, wrp.Tokenizer, wrp.State.load, model.load_state):
        with pytest.raises(wrp.ModelFileError, match="missing") as raised:
            work(missing)
        assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, str(missing))
    with pytest.raises(wrp.ModelFileError):
        model.init_state().save(tmp_path / "no" / "folder")
    (tmp_path / "text").write_text("no model")
    with pytest.raises(wrp.InvalidModelError, match="text: "):
        wrp.Model(tmp_path / "text")
    (tmp_path / "cut").write_bytes(EMBEDDED.read_bytes()[:100_000])
    with pytest.raises(wrp.InvalidModelError, match="cut: "):
        wrp.Model(tmp_path / "cut")
    with pytest.raises(wrp.InvalidModelError):
        wrp.Tokenizer(tmp_path / "text")


def test_devices_and_options(small: Path) -> None:
    with pytest.raises(wrp.DeviceError, match="gpu:99"):
        wrp.Model(EMBEDDED, device="gpu:99")
    model = wrp.Model(small, device="cpu")
    for work in (
        lambda: model.back_state(wrp.StateDevice.Gpu),
        lambda: model.back_state_numpy(device=wrp.StateDevice.Gpu),
        lambda: model.init_state().to(wrp.StateDevice.Gpu),
    ):
        with pytest.raises(wrp.DeviceError, match=r"expected .*, found"):
            work()
    options: list[dict[str, Any]] = [
        {"device": "tpu"},
        {"device": "gpu:-1"},
        {"threads": 0},
        {"threads": -1},
        {"threads": 10**30},
    ]
    for option in options:
        with pytest.raises(wrp.RequestError, match=r"expected .*, found"):
            wrp.Model(EMBEDDED, **option)


REQUESTS: list[Callable[[wrp.Model], object]] = [
    lambda m: m.run([8192]),
    lambda m: m.run([1, -1]),
    lambda m: m.run([2**32]),
    lambda m: m.run([10**30]),
    lambda m: m.run(np.array([2**63], np.uint64)),
    lambda m: m.run([1], token_chunk_size=0),
    lambda m: m.run([1], token_chunk_size=-1),
    lambda m: m.run_full([1, 9999]),
    lambda m: m.embed([]),
    lambda m: m.embed(""),
    lambda m: m.embed_batch([[1], []]),
    lambda m: m.embed([1], pool="max"),  # type: ignore[arg-type]
    lambda m: m.generate(""),
    lambda m: m.generate([8192]),
    lambda m: m.generate("a", max_tokens=-1),
    lambda m: m.generate("a", temperature=-1.0),
    lambda m: m.generate("a", temperature=float("nan")),
    lambda m: m.generate("a", top_p=1.5),
    lambda m: m.generate("a", presence_penalty=float("inf")),
    lambda m: m.extract(b"a mail \xff", {}),
    lambda m: m.tokenizer.decode([-1]),
    lambda m: m.tokenizer.decode([10**6]),
]

NUMBERS: list[tuple[str, Callable[[wrp.Model, Any], object]]] = [
    ("quant", lambda m, n: wrp.Model(EMBEDDED, quant=n)),
    ("quant_nf4", lambda m, n: wrp.Model(EMBEDDED, quant_nf4=n)),
    ("quant_sf4", lambda m, n: wrp.Model(EMBEDDED, quant_sf4=n)),
    ("threads", lambda m, n: wrp.Model(EMBEDDED, threads=n)),
    ("token_chunk_size", lambda m, n: m.run([1], token_chunk_size=n)),
    ("token_chunk_size", lambda m, n: m.run_full([1], token_chunk_size=n)),
    ("token_chunk_size", lambda m, n: m.embed([1], token_chunk_size=n)),
    ("token_chunk_size", lambda m, n: m.embed_batch([[1]], token_chunk_size=n)),
    ("max_tokens", lambda m, n: m.generate("a", max_tokens=n)),
    ("top_k", lambda m, n: m.generate("a", top_k=n)),
    ("seed", lambda m, n: m.stream("a", seed=n)),
    ("max_tokens", lambda m, n: m.extract("a", {}, max_tokens=n)),
]

TYPES: list[Callable[[Any], object]] = [
    lambda m: m.run(None),
    lambda m: m.run(5),
    lambda m: m.run([1.0]),
    lambda m: m.run(["a"]),
    lambda m: m.run([True]),
    lambda m: m.run(np.array([1.0])),
    lambda m: m.run(np.array([True])),
    lambda m: m.run(np.array([[1, 2]])),
    lambda m: m.run([1], option="Last"),
    lambda m: m.embed_batch("text"),
    lambda m: m.embed([1], pool=1),
    lambda m: m.generate("a", stop=[1]),
    lambda m: m.embed_batch(b"text"),
    lambda m: m.embed_batch(1),
    lambda m: m.embed_batch(np.array([1, 2])),
    lambda m: m.embed_batch(iter([[1], None])),
    lambda m: m.extract(1, {}),
    lambda m: m.extract("mail", ["name"]),
    lambda m: m.extract("mail", {"name": 1}),
    lambda m: m.load_state([0.0]),
    lambda m: m.load_state(m.back_state_numpy().astype(np.float64)),
    lambda m: m.state_from_numpy(m.back_state_numpy().astype(">f4")),
    lambda m: m.state_from_numpy([0.0]),
]


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_requests(model: wrp.Model, number: int) -> None:
    model.run("a")
    before = model.back_state()
    with pytest.raises(wrp.RequestError):
        REQUESTS[number](model)
    assert model.back_state() == before


@pytest.mark.parametrize(("name", "work"), NUMBERS)
def test_a_number_that_does_not_fit_is_named(
    model: wrp.Model, name: str, work: Callable[[wrp.Model, Any], object]
) -> None:
    for n in (-1, 2**64):
        with pytest.raises(wrp.RequestError) as raised:
            work(model, n)
        assert str(raised.value) == f"{name}: expected an unsigned number of 64 bits, found {n}"
    with pytest.raises(TypeError, match=name):
        work(model, "1")


@pytest.mark.parametrize("number", range(len(TYPES)))
def test_types(model: wrp.Model, number: int) -> None:
    before = model.back_state()
    with pytest.raises(TypeError) as raised:
        TYPES[number](model)
    assert "\n" not in str(raised.value)
    assert model.back_state() == before


def test_a_model_without_a_vocabulary(wide: Path) -> None:
    model = wrp.Model(wide)
    for work in (
        lambda: model.tokenizer,
        lambda: model.run("text"),
        lambda: model.embed_batch([[1], b"text"]),
        lambda: model.extract("text", {"a": "b"}),
    ):
        with pytest.raises(wrp.RequestError, match=r"tokenizer: expected a vocabulary in .*, found none"):
            work()
    assert len(model.run([1])) == 16


def test_a_closed_model() -> None:
    with wrp.Model(EMBEDDED) as model:
        tokenizer, stream = model.tokenizer, model.stream("User:", 3)
    for work in (
        lambda: model.run([1]),
        model.info,
        model.clear_state,
        lambda: model.tokenizer,
        model.__enter__,
    ):
        with pytest.raises(wrp.RequestError, match="closed"):
            work()
    model.close()
    assert "closed" in repr(model)
    # What was taken from it goes on.
    assert tokenizer.encode("a")
    assert list(stream)


def test_an_exception_in_progress_stops_the_work(model: wrp.Model) -> None:
    model.run("a")
    before = model.back_state()
    told = []

    def progress(read: int, total: int) -> None:
        told.append(read)
        if read >= 20:
            raise KeyError("enough")

    tokens = [1] * 100
    for work in (
        lambda: model.run(tokens, 10, progress=progress),
        lambda: model.run_full(tokens, 10, progress=progress),
        lambda: model.embed(tokens, 10, progress=progress),
        lambda: model.embed_batch([tokens], 10, progress=progress),
    ):
        told.clear()
        with pytest.raises(KeyError, match="enough"):
            work()
        assert told == [10, 20]
    with pytest.raises(KeyError, match="enough"):
        model.extract("mail " * 1000, {"a": "b"}, progress=progress)
    assert model.back_state() == before


def test_progress_may_not_use_the_live_state(model: wrp.Model) -> None:
    works: list[Callable[[], object]] = [model.clear_state, model.back_state, lambda: model.run([1])]
    for work in works:
        with pytest.raises(wrp.RequestError, match="live state: expected one use at a time"):
            model.run([1], progress=lambda *_, work=work: work())
    # The rest of the model it may.
    model.run([1], progress=lambda *_: model.embed([1]))


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to itself")
@pytest.mark.parametrize("method", ["run", "generate"])
def test_ctrl_c_stops_the_work(model: wrp.Model, method: str) -> None:
    before = model.back_state()
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
    # Shells start what runs in the background with the signal ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, a late signal must not miss the block
        timer.start()
        getattr(model, method)([1] * 1_000_000)
    timer.join()
    signal.signal(signal.SIGINT, handler)
    assert model.back_state() == before
