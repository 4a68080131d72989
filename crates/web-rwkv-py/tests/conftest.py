"""Models to test with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import web_rwkv_py as wrp

MODELS = Path(__file__).parents[3] / "models" / "rwkv7-mail"
EMBEDDED = MODELS / "rwkv7-mail-q4_k_m.gguf"

# What "auto" is: the CPU, whose results are the same every time.
os.environ.setdefault("WEB_RWKV_DEVICE", "cpu")


@pytest.fixture(scope="session")
def opened() -> wrp.Model:
    return wrp.Model(EMBEDDED)


@pytest.fixture
def model(opened: wrp.Model) -> Iterator[wrp.Model]:
    """The embedded model, its live state at zeros."""
    opened.clear_state()
    yield opened
    opened.clear_state()


def write_model(path: Path, layers: int, values: Callable[[tuple[int, ...]], np.ndarray]) -> Path:
    """A model of width 64 without a vocabulary."""
    channels, vocab, rank = 64, 16, 8
    vector, matrix = (channels,), (channels, channels)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(["emb.weight", "head.weight"], (vocab, channels))
    for norm in ["blocks.0.ln0", "ln_out"]:
        shapes |= {f"{norm}.weight": vector, f"{norm}.bias": vector}
    for layer in (f"blocks.{i}." for i in range(layers)):
        for norm in ["ln1", "ln2", "att.ln_x"]:
            shapes |= {f"{layer}{norm}.weight": vector, f"{layer}{norm}.bias": vector}
        vectors = ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a"]
        shapes |= {f"{layer}att.{name}": (1, 1, channels) for name in vectors}
        shapes |= {f"{layer}att.r_k": (1, channels), f"{layer}ffn.x_k": (1, 1, channels)}
        for gate in "wavg":
            shapes |= {f"{layer}att.{gate}1": (channels, rank), f"{layer}att.{gate}2": (rank, channels)}
        matrices = ["att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value"]
        shapes |= {f"{layer}{name}.weight": matrix for name in matrices}
    save_file({name: values(shape) for name, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of zeros whose state has the size of a 2.9B model's, as it has 1280 layers."""
    path = tmp_path_factory.mktemp("models") / "wide.safetensors"
    return write_model(path, 1280, lambda shape: np.zeros(shape, np.float16))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers, of random numbers."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    return write_model(path, 2, lambda shape: random.normal(0, 0.3, shape).astype(np.float16))
