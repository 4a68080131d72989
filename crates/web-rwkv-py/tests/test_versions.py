"""RWKV-4 to 6, LoRAs and trained states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file

import web_rwkv_py as wrp
from conftest import EMBEDDED

C, N, F, V, RANK = 32, 8, 64, 16, 4


def tensors(version: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A model of one layer, heads of 8, under official names."""
    shapes: dict[str, tuple[int, ...]] = {"emb.weight": (V, C), "head.weight": (V, C)}
    norms = ["blocks.0.ln0", "blocks.0.ln1", "blocks.0.ln2", "ln_out"] + ["blocks.0.att.ln_x"] * (version > 4)
    shapes |= {f"{norm}.{part}": (C,) for norm in norms for part in ("weight", "bias")}
    matrices = ["receptance", "key", "value", "output"] + ["gate"] * (version > 4)
    shapes |= {f"blocks.0.att.{name}.weight": (C, C) for name in matrices}
    shapes |= {"blocks.0.ffn.key.weight": (F, C), "blocks.0.ffn.value.weight": (C, F)}
    shapes |= {"blocks.0.ffn.receptance.weight": (C, C)}
    mix = "time_maa" if version == 6 else "time_mix"
    letters = {4: "kvr", 5: "kvrg", 6: "xwkvrg"}[version]
    shapes |= {f"blocks.0.att.{mix}_{letter}": (1, 1, C) for letter in letters}
    shapes |= {f"blocks.0.ffn.{mix}_{letter}": (1, 1, C) for letter in "kr"}
    heads = (C // N, N)
    shapes["blocks.0.att.time_decay"] = {4: (C,), 5: heads, 6: (1, 1, C)}[version]
    shapes |= {"blocks.0.att.time_first": (C,)} if version == 4 else {"blocks.0.att.time_faaaa": heads}
    if version == 6:
        shapes |= {"blocks.0.att.time_maa_w1": (C, 5 * RANK), "blocks.0.att.time_maa_w2": (5, RANK, C)}
        shapes |= {"blocks.0.att.time_decay_w1": (C, RANK), "blocks.0.att.time_decay_w2": (RANK, C)}
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("version", "name", "rows", "heads"),
    [
        (4, wrp.ModelVersion.V4, 5, 1),
        (5, wrp.ModelVersion.V5, N + 2, C // N),
        (6, wrp.ModelVersion.V6, N + 2, C // N),
    ],
)
def test_versions(version: int, name: wrp.ModelVersion, rows: int, heads: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors(version, np.random.default_rng(version)), path)
    with wrp.Model(path) as model:
        info = model.info()
        assert (info.version, info.num_layer, info.num_emb, info.num_head) == (name, 1, C, heads)
        assert model.init_state().shape == (1, rows, C)
        whole = model.run([1, 2, 3, 4])
        model.clear_state()
        model.run([1, 2])
        state = wrp.State(bytes(model.back_state()))
        model.clear_state()
        model.load_state(state)
        assert_allclose(model.run([3, 4]), whole, rtol=1e-4, atol=1e-5)
        assert np.isfinite(whole).all()


def test_trained_states(model: wrp.Model, tmp_path: Path) -> None:
    info = model.info()
    h, n, layers = info.num_head, info.head_size, info.num_layer
    trained = np.random.default_rng(1).normal(size=(layers, h, n, n)).astype(np.float32)
    path = tmp_path / "state.safetensors"
    save_file({f"blocks.{i}.att.time_state": x for i, x in enumerate(trained)}, path)
    model.load_state(path)
    state = model.back_state()
    # By head, value and key index in the file; by key index, head and value index in the state.
    want = trained.transpose(0, 3, 1, 2).reshape(layers, n, h * n)
    assert_array_equal(state.to_numpy().reshape(state.shape)[:, 1:-1], want)
    save_file({"blocks.0.att.time_state": trained[0]}, path)
    with pytest.raises(wrp.InvalidModelError, match=r"blocks\.1\.att\.time_state` is missing"):
        model.load_state(path)


def test_loras(model: wrp.Model, tmp_path: Path) -> None:
    info, path = model.info(), tmp_path / "lora.safetensors"
    c, f = info.num_emb, info.num_hidden
    rng = np.random.default_rng(2)
    a, b = (rng.normal(0, 0.1, shape).astype(np.float32) for shape in [(4, c), (f, 4)])
    lora = {"blocks.0.ffn.key.lora_A": a, "blocks.0.ffn.key.lora_B": b}
    save_file(lora, path)
    before = model.embed([1, 2, 3])
    with wrp.Model(EMBEDDED, lora=path, alpha=8.0) as tuned:
        after = tuned.embed([1, 2, 3])
    assert np.abs(after - before).max() > 1e-2
    # Nothing is added, and the same matrix is then in f16.
    with wrp.Model(EMBEDDED, lora=path, alpha=0.0) as tuned:
        assert_allclose(tuned.embed([1, 2, 3]), before, atol=2e-2)
    for arguments in ({"lora": path}, {"alpha": 8.0}):
        with pytest.raises(wrp.RequestError):
            wrp.Model(EMBEDDED, **arguments)
    save_file(lora | {"blocks.0.ffn.key.lora_B": b[1:]}, path)
    with pytest.raises(wrp.InvalidModelError, match=r"blocks\.0\.ffn\.key\.lora_B`: expected"):
        wrp.Model(EMBEDDED, lora=path, alpha=8.0)
