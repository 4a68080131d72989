"""Models and states on a GPU; a program that plays one will do, as the models are small."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import web_rwkv_py as wrp
from web_rwkv_py import StateDevice

TOKENS = [1, 5, 2, 9, 3]


@pytest.fixture(scope="module")
def on_gpu(small: Path) -> wrp.Model:
    if not wrp.devices() and os.environ.get("WEB_RWKV_TEST_GPU") != "1":
        pytest.skip("no GPU with a driver for Vulkan, Metal or DirectX 12")
    return wrp.Model(small, device="gpu:0")


@pytest.fixture
def gpu(on_gpu: wrp.Model) -> wrp.Model:
    on_gpu.clear_state()
    return on_gpu


@pytest.fixture
def cpu(small: Path) -> wrp.Model:
    return wrp.Model(small, device="cpu")


def nmse(got: object, want: object) -> float:
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(((a - b) ** 2).sum() / (b**2).sum())


def test_devices_say_what_they_are() -> None:
    for i, device in enumerate(wrp.devices()):
        assert device.device == f"gpu:{i}"
        assert device.name in repr(device)
        assert device.subgroup[0] <= device.subgroup[1]
        assert device.binding_limit > 0
        assert device == wrp.devices()[i]


def test_auto_is_what_the_environment_says(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_RWKV_DEVICE", "gpu:99")
    with pytest.raises(wrp.DeviceError, match="gpu:99"):
        wrp.Model(small)
    assert wrp.Model(small, device="cpu").device == "cpu"
    monkeypatch.setenv("WEB_RWKV_DEVICE", "tpu")
    with pytest.raises(wrp.RequestError, match="tpu"):
        wrp.Model(small)
    monkeypatch.delenv("WEB_RWKV_DEVICE")
    hardware = any(device.kind != "software" for device in wrp.devices())
    assert wrp.Model(small).device.startswith("gpu: " if hardware else "cpu")


def test_a_gpu_computes_what_the_cpu_does(gpu: wrp.Model, cpu: wrp.Model) -> None:
    assert (gpu.device, gpu.threads) == (f"gpu: {wrp.devices()[0].name}", 0)
    assert nmse(gpu.run(TOKENS), cpu.run(TOKENS)) < 1e-5
    assert nmse(gpu.back_state_numpy(), cpu.back_state_numpy()) < 1e-5
    sequences = [TOKENS, [4], TOKENS[:3]]
    for got, want in zip(gpu.embed_batch(sequences), cpu.embed_batch(sequences)):
        assert nmse(got, want) < 1e-5


def test_states_go_to_a_gpu_and_back(gpu: wrp.Model) -> None:
    gpu.run(TOKENS)
    there, here = gpu.back_state(StateDevice.Gpu), gpu.back_state()
    assert (there.device(), here.device()) == (StateDevice.Gpu, StateDevice.Cpu)
    assert there.to(StateDevice.Gpu) is there
    for state in (there.to(StateDevice.Cpu), here.to(StateDevice.Gpu), here.to(StateDevice.Gpu).deep_clone()):
        assert state == there == here
        assert_array_equal(state.to_numpy(), there.to_numpy())
    assert bytes(there) == bytes(here)
    assert_array_equal(gpu.back_state_numpy(StateDevice.Gpu), here.to_numpy())
    for clone in (pickle.loads(pickle.dumps(there)), wrp.State(bytes(there))):
        assert (clone, clone.device()) == (there, StateDevice.Cpu)
        with pytest.raises(wrp.DeviceError, match=r"load_state"):
            clone.to(StateDevice.Gpu)
    assert copy.deepcopy(there).device() == StateDevice.Gpu


def test_a_fetched_state_is_a_value(gpu: wrp.Model) -> None:
    gpu.run(TOKENS)
    state = gpu.back_state(StateDevice.Gpu)
    view = state.to_numpy()
    before = view.copy()
    assert not view.flags.writeable
    for _ in range(3):  # the slots of the state and its forks are used on
        gpu.run(TOKENS)
        gpu.embed(TOKENS, state=state)
    assert state.to_numpy().ctypes.data == view.ctypes.data
    assert_array_equal(view, before)
    assert nmse(gpu.embed(TOKENS, state=state), gpu.embed(TOKENS, state=state.to(StateDevice.Cpu))) < 1e-12
    del state
    assert_array_equal(view, before)


def test_states_outlive_their_model(small: Path, gpu: wrp.Model) -> None:
    with wrp.Model(small, device="gpu:0") as model:
        model.run(TOKENS)
        there, here = model.back_state(StateDevice.Gpu), model.back_state()
    assert there.to(StateDevice.Cpu) == here
    with pytest.raises(wrp.DeviceError, match="open model"):
        here.to(StateDevice.Gpu)
    gpu.load_state(there)  # of another model of the same weights, on a device of its own
    gpu.run([1])
    assert gpu.back_state() != here


def test_zeros_and_arrays_on_a_gpu(gpu: wrp.Model) -> None:
    zeros = gpu.back_state(StateDevice.Gpu)
    assert zeros.device() == StateDevice.Gpu
    assert zeros == gpu.init_state()
    array = np.random.default_rng(1).normal(size=zeros.shape).astype(np.float32)
    state = gpu.state_from_numpy(array)
    assert_array_equal(state.to(StateDevice.Gpu).to_numpy(), array.ravel())
    gpu.load_state(state.to(StateDevice.Gpu))
    assert_array_equal(gpu.back_state_numpy(), array.ravel())
