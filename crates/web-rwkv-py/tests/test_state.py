"""States: values that are compared, copied, saved and pickled, and handed over without a copy."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import web_rwkv_py as wrp


@pytest.fixture
def state(model: wrp.Model) -> wrp.State:
    model.run("The parcel arrives on Friday.")
    return model.back_state()


def test_states_are_values(model: wrp.Model, state: wrp.State, tmp_path: Path) -> None:
    state.save(tmp_path / "state")
    same = [
        state.deep_clone(),
        state.to(wrp.StateDevice.Cpu),
        copy.copy(state),
        copy.deepcopy({"s": state})["s"],
        pickle.loads(pickle.dumps(state)),
        wrp.State(bytes(state)),
        wrp.State.load(tmp_path / "state"),
    ]
    assert all(other == state for other in same)
    assert (tmp_path / "state").read_bytes() == bytes(state)
    assert state != model.init_state()
    assert state != "state"
    with pytest.raises(TypeError):
        hash(state)
    model.run("More of it.")
    assert model.back_state() != state


def test_a_state_goes_on(model: wrp.Model, state: wrp.State, tmp_path: Path) -> None:
    want = model.run("And then?")
    state.save(tmp_path / "state")
    for source in (state, tmp_path / "state", str(tmp_path / "state")):
        model.load_state(source)
        assert model.back_state() == state
        assert model.run("And then?") == want


def test_a_state_from_an_array(model: wrp.Model, state: wrp.State) -> None:
    array = state.to_numpy()
    cube = array.reshape(state.shape)
    unaligned = np.frombuffer(b"-" + array.tobytes(), np.uint8)[1:].view(np.float32)
    for given in (array, cube, np.asfortranarray(cube), np.repeat(array, 2)[::2], unaligned):
        assert model.state_from_numpy(given) == state
        model.clear_state()
        model.load_state(given)
        assert model.back_state() == state
    mine = array.copy()
    made = model.state_from_numpy(mine)
    mine[:] = 0
    assert made == state
    for bad in (array[1:], cube[1:], cube.T, cube[None], np.zeros(0, np.float32)):
        with pytest.raises(
            wrp.RequestError, match=r"^state array: expected \[8, 66, 512\] or \[270336\], found"
        ):
            model.load_state(bad)
    with pytest.raises(
        TypeError, match="expected a State, a float32 array or the path of a file, found list"
    ):
        model.load_state(array.tolist())
    with pytest.raises(TypeError, match="expected a float32 array, found one of float64"):
        model.load_state(array.astype(np.float64))
    assert model.back_state() == state


def test_layout(model: wrp.Model) -> None:
    layers, rows, channels = model.init_state().shape
    assert (layers, rows, channels) == (8, 66, 512)
    assert not model.init_state().to_numpy().any()
    model.run([1])
    state = model.back_state()
    array = state.to_numpy().reshape(state.shape)
    assert array.reshape(layers, -1).any(axis=1).all()
    assert state.to_list() == array.ravel().tolist()


def test_to_numpy_is_the_buffer_of_the_state(state: wrp.State) -> None:
    array = state.to_numpy()
    base: object = array.base
    assert base is state  # and so no list, and no copy
    assert np.shares_memory(array, state.to_numpy())
    # A state is a value: who wants to write takes a copy.
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    want = array.copy()
    del state
    assert_array_equal(array, want)  # it keeps its state alive


def test_back_state_numpy_owns_the_buffer_of_rust(model: wrp.Model, state: wrp.State) -> None:
    array, other = model.back_state_numpy(), model.back_state_numpy()
    assert type(array.base).__name__ == "PySliceContainer"  # of rust-numpy: a Vec that was moved
    assert not np.shares_memory(array, other)
    array += 1
    assert_array_equal(other, state.to_numpy())
    assert model.back_state() == state


def test_embeddings_own_the_buffer_of_rust(model: wrp.Model) -> None:
    array = model.embed([1, 2])
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert type(array.base).__name__ == "PySliceContainer"


def test_state_back_costs_one_memory_copy(wide: Path) -> None:
    with wrp.Model(wide) as model:
        array = model.back_state_numpy()
        assert array.size == 32 * 66 * 2560

        def milliseconds(work: Callable[[], object]) -> float:
            """The best of many: what the work takes, not what the machine does beside it."""
            times = []
            for _ in range(30):
                start = time.perf_counter()
                result = work()
                times.append(time.perf_counter() - start)
                del result
            return min(times) * 1e3

        plain = milliseconds(array.copy)
        back = milliseconds(model.back_state_numpy)
        through = milliseconds(lambda: model.back_state().to_numpy())
        print(
            f"\ncopy {plain:.2f} ms, back_state_numpy {back:.2f} ms, back_state().to_numpy() {through:.2f} ms"
        )
        assert back < plain + 3
        assert through < plain + 3


def test_bytes_that_are_no_state(state: wrp.State, tmp_path: Path) -> None:
    good = bytes(state)
    for bad in (
        b"",
        b"state",
        good[:-1],
        good + b"\0",
        good[:8] + b"\xff" + good[9:],
        good[:24] + b"\xff" * 12,
    ):
        with pytest.raises(wrp.InvalidModelError):
            wrp.State(bad)
    (tmp_path / "bad").write_bytes(good[:100])
    with pytest.raises(wrp.InvalidModelError, match="bad: length: expected"):
        wrp.State.load(tmp_path / "bad")


def test_states_of_another_model(model: wrp.Model, wide: Path, tmp_path: Path) -> None:
    with wrp.Model(wide) as other:
        state = other.init_state()
    state.save(tmp_path / "other")
    for work in (
        lambda: model.load_state(state),
        lambda: model.embed("a", state=state),
        lambda: model.generate("a", state=state),
    ):
        with pytest.raises(wrp.RequestError, match=r"state: expected model .* of 8 layers, width 512"):
            work()
    with pytest.raises(wrp.InvalidModelError, match="other: state: expected model"):
        model.load_state(tmp_path / "other")
