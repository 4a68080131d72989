"""Models to test with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import web_rwkv_py as wrp

MODELS = Path(__file__).parents[3] / "models" / "rwkv7-mail"
EMBEDDED = MODELS / "rwkv7-mail-q4_k_m.gguf"


@pytest.fixture(scope="session")
def opened() -> wrp.Model:
    return wrp.Model(EMBEDDED)


@pytest.fixture
def model(opened: wrp.Model) -> Iterator[wrp.Model]:
    """The embedded model, its live state at zeros."""
    opened.clear_state()
    yield opened
    opened.clear_state()


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of zeros without a vocabulary, whose state has the size of a 2.9B model's: 1280 layers of width
    64 instead of 32 of width 2560.
    """
    layers, channels, vocab, rank = 1280, 64, 16, 8
    vector = np.zeros(channels, np.float16)
    square, down, up = (
        np.zeros(s, np.float16) for s in [(channels, channels), (channels, rank), (rank, channels)]
    )
    tensors: dict[str, np.ndarray] = {
        name: np.zeros((vocab, channels), np.float16) for name in ["emb.weight", "head.weight"]
    }
    for norm in ["blocks.0.ln0", "ln_out"]:
        tensors |= {f"{norm}.weight": vector, f"{norm}.bias": vector}
    for layer in (f"blocks.{i}." for i in range(layers)):
        for norm in ["ln1", "ln2", "att.ln_x"]:
            tensors |= {f"{layer}{norm}.weight": vector, f"{layer}{norm}.bias": vector}
        vectors = ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a"]
        tensors |= {f"{layer}att.{name}": vector.reshape(1, 1, -1) for name in vectors}
        tensors |= {f"{layer}att.r_k": vector.reshape(1, -1), f"{layer}ffn.x_k": vector.reshape(1, 1, -1)}
        for gate in "wavg":
            tensors |= {f"{layer}att.{gate}1": down, f"{layer}att.{gate}2": up}
        matrices = ["att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value"]
        tensors |= {f"{layer}{name}.weight": square for name in matrices}
    path = tmp_path_factory.mktemp("models") / "wide.safetensors"
    save_file(tensors, path)
    return path
