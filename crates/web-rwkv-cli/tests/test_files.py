"""What convert, quantize and compare write, read back by the official tools: gguf, safetensors, and llama.cpp
where llama-cpp-python is installed, in this interpreter or in the one that LLAMA_PYTHON names.

The command is WEB_RWKV, by default target/debug/web-rwkv.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import reference_forward  # noqa: E402
import witness_models  # noqa: E402
import witness_versions  # noqa: E402

# What "auto" is, also where there is a GPU.
os.environ.setdefault("WEB_RWKV_DEVICE", "cpu")
COMMAND = os.environ.get("WEB_RWKV", str(ROOT / "target/debug/web-rwkv"))
LLAMA = os.environ.get("LLAMA_PYTHON", sys.executable)
EMBEDDED = ROOT / "models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf"
REVERSE = ROOT.parent / "shared/models/third-party/reverse-rwkv7"
TYPES = [
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q5_1",
    "q5_0",
    "q4_k_m",
    "q4_1",
    "q4_0",
    "iq4_nl",
    "iq4_xs",
    "q3_k_m",
    "q2_k",
]


def run(*args: object, stdin: bytes = b"") -> str:
    done = subprocess.run([COMMAND, *map(str, args)], capture_output=True, input=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def llama(script: str, *args: object) -> str:
    """Runs Python with llama.cpp; skips where there is none."""
    there = subprocess.run([LLAMA, "-c", "import llama_cpp"], capture_output=True)
    if there.returncode:
        pytest.skip("llama-cpp-python is not installed (LLAMA_PYTHON names an interpreter that has it)")
    done = subprocess.run([LLAMA, "-c", script, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def random_model(layers: int = 3, channels: int = 256, hidden: int = 512, vocab: int = 300) -> dict:
    """Official tensors of an RWKV-7 in f32."""
    rng, heads = np.random.default_rng(3), channels // 64

    def vector(mean: float, std: float) -> np.ndarray:
        return rng.normal(mean, std, (1, 1, channels))

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0, columns**-0.5, (rows, columns))

    tensors = {"emb.weight": matrix(vocab, channels), "head.weight": 2 * matrix(vocab, channels)}
    norms = ["blocks.0.ln0", "ln_out"]
    for b in (f"blocks.{i}." for i in range(layers)):
        norms += [b + "ln1", b + "ln2", b + "att.ln_x"]
        tensors |= {f"{b}att.x_{c}": rng.uniform(0, 1, (1, 1, channels)) for c in "rwkvag"}
        for c, rank in {"w": 32, "a": 48, "v": 16, "g": 64}.items():
            if (b, c) == ("blocks.0.", "v"):
                continue
            tensors |= {f"{b}att.{c}1": matrix(channels, rank), f"{b}att.{c}2": matrix(rank, channels)}
            tensors |= {f"{b}att.{c}0": vector(0, 1)} if c != "g" else {}
        tensors |= {b + "att.k_k": vector(0.7, 0.1), b + "att.k_a": vector(1, 0.1)}
        tensors |= {
            b + "att.r_k": rng.normal(0, 0.1, (heads, 64)),
            b + "ffn.x_k": rng.uniform(0, 1, (1, 1, channels)),
        }
        squares = ("receptance", "key", "value", "output")
        tensors |= {f"{b}att.{name}.weight": matrix(channels, channels) for name in squares}
        tensors |= {
            b + "ffn.key.weight": matrix(hidden, channels),
            b + "ffn.value.weight": matrix(channels, hidden),
        }
    for norm in norms:
        tensors |= {
            f"{norm}.weight": rng.normal(1, 0.1, channels),
            f"{norm}.bias": rng.normal(0, 0.1, channels),
        }
    return {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random.safetensors, a vocabulary with every byte that needs escaping, and random.gguf."""
    folder = tmp_path_factory.mktemp("files")
    save_file(random_model(), folder / "random.safetensors")
    tokens = [bytes([i]) for i in range(256)] + [b"'\"", b"\n\n", "é".encode(), b"\\n", b"it's"]
    lines = [f"{i + 1} {token!r} {len(token)}\n" for i, token in enumerate(tokens)]
    (folder / "vocab.txt").write_text("".join(lines), encoding="utf-8")
    run("convert", folder / "random.safetensors", folder / "random.gguf", "--vocab", folder / "vocab.txt")
    return folder


def test_gguf_reads_what_convert_writes(model: Path) -> None:
    reader = gguf.GGUFReader(model / "random.gguf")

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    sizes = {
        "context_length": 1 << 20,
        "embedding_length": 256,
        "block_count": 3,
        "feed_forward_length": 512,
        "attention.head_count": 0,
        "wkv.head_size": 64,
        "attention.decay_lora_rank": 32,
        "attention.iclr_lora_rank": 48,
        "attention.value_residual_mix_lora_rank": 16,
        "attention.gate_lora_rank": 64,
    }
    assert {key: value(f"rwkv7.{key}") for key in sizes} == sizes
    assert value("general.architecture") == "rwkv7"
    assert value("general.file_type") == gguf.LlamaFileType.ALL_F32
    tokens = value("tokenizer.ggml.tokens")
    assert len(tokens) == 300
    assert tokens[0] == "<s>"
    assert tokens[299] == "[PAD299]"
    lines = (model / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert [repr(eval(line.split(" ", 1)[1].rsplit(" ", 1)[0]))[2:-1] for line in lines] == tokens[1:262]
    kinds = value("tokenizer.ggml.token_type")
    assert (kinds[0], kinds[1], kinds[299]) == (3, 1, 5)
    assert value("tokenizer.ggml.eot_token_id") == 258
    for tensor in reader.tensors:
        assert tensor.data_offset % 32 == 0
    # llama.cpp wants copies of a's LoRA in layer 0, which nothing reads.
    data = {t.name: t.data for t in reader.tensors}
    for i in "012":
        a, v = (data[f"blk.0.time_mix_{c}{i}.weight"] for c in "av")
        np.testing.assert_array_equal(v, a)
    want, found = random_model(), witness_models.decoded(model / "random.gguf")
    assert set(want) == set(found) - {f"blocks.0.att.v{i}" for i in "012"}
    for name, x in want.items():
        np.testing.assert_array_equal(np.squeeze(found[name]), np.squeeze(x), err_msg=name)


def test_there_and_back(model: Path) -> None:
    run("convert", model / "random.gguf", model / "back.safetensors")
    want, found = load_file(model / "random.safetensors"), load_file(model / "back.safetensors")
    assert set(want) == set(found)
    for name, x in want.items():
        assert x.shape == found[name].shape, name
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    with safe_open(model / "back.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    # A GGUF that is written from a GGUF is the same but for the order of its keys.
    run("convert", model / "random.gguf", model / "again.gguf")
    first, second = (gguf.GGUFReader(model / name) for name in ("random.gguf", "again.gguf"))
    assert {k: f.contents() for k, f in first.fields.items()} == {
        k: f.contents() for k, f in second.fields.items()
    }
    for a, b in zip(first.tensors, second.tensors, strict=True):
        assert (a.name, a.tensor_type) == (b.name, b.tensor_type)
        np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_floats_are_rounded_as_gguf_rounds_them(model: Path, kind: str) -> None:
    run("convert", model / "random.gguf", model / f"{kind}.gguf", "--type", kind)
    want = random_model()["blocks.1.ffn.value.weight"]
    qtype = gguf.GGMLQuantizationType[kind.upper()]
    found = {t.name: t for t in gguf.GGUFReader(model / f"{kind}.gguf").tensors}[
        "blk.1.channel_mix_value.weight"
    ]
    assert found.tensor_type == qtype
    np.testing.assert_array_equal(found.data.view(np.uint8), gguf.quantize(want, qtype).view(np.uint8))


@pytest.mark.parametrize("kind", TYPES)
def test_blocks(model: Path, kind: str) -> None:
    """gguf.quants has our values of our blocks, and its own, where it makes any, are not as near."""
    path = model / f"{kind}.gguf"
    run("quantize", model / "random.gguf", path, "--type", kind)
    quantized, want = witness_models.decoded(path), random_model()
    run("convert", path, model / "decoded.safetensors", "--type", "f32")
    ours = load_file(model / "decoded.safetensors")
    formats = {t.name: t.tensor_type for t in gguf.GGUFReader(path).tensors}
    base = gguf.GGMLQuantizationType[kind.upper().removesuffix("_M")]
    head = gguf.GGMLQuantizationType.Q8_0 if kind == "q8_0" else gguf.GGMLQuantizationType.Q6_K
    for name, qtype in formats.items():
        matrix = name.endswith(("_key.weight", "_value.weight", "receptance.weight", "_mix_output.weight"))
        matrix |= name == "token_embd.weight"
        plain = gguf.GGMLQuantizationType.F32
        assert qtype == (head if name == "output.weight" else base if matrix else plain), name
    for name in ("emb.weight", "head.weight", "blocks.1.att.key.weight", "blocks.2.ffn.value.weight"):
        np.testing.assert_array_equal(ours[name].astype(np.float32), quantized[name], err_msg=name)
        try:
            other = gguf.dequantize(gguf.quantize(want[name], base), base)
        except NotImplementedError:
            continue
        if name != "head.weight":
            error = [
                float(((x - want[name]).astype(np.float64) ** 2).sum()) for x in (quantized[name], other)
            ]
            assert error[0] < error[1], name


@pytest.fixture(scope="session")
def trained(model: Path) -> Path:
    """As `model`, with two layers and some tokens of the trained model that the embedded one was made of."""
    source = ROOT.parent / "shared/models/rwkv7-mail/rwkv7-mail.safetensors"
    if not source.exists():
        pytest.skip(f"no {source}")
    layers = ("blocks.0.", "blocks.1.", "ln_out.")
    part = {k: x[:512] if k in ("emb.weight", "head.weight") else x for k, x in load_file(source).items()}
    part = {k: np.ascontiguousarray(x) for k, x in part.items() if k.startswith((*layers, "emb.", "head."))}
    save_file(part, model / "trained.safetensors")
    run("convert", model / "trained.safetensors", model / "trained.gguf", "--vocab", model / "vocab.txt")
    return model


@pytest.mark.parametrize("name", ["random", "trained"])
@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_nearer_than_those_of_llama(trained: Path, kind: str, name: str) -> None:
    source, files = trained / f"{name}.gguf", [trained / "ours.gguf", trained / "llama.gguf"]
    run("quantize", source, files[0], "--type", kind)
    llama((ROOT / "tools/llama_quantize.py").read_text(encoding="utf-8"), source, files[1], kind)
    formats = [{t.name: t.tensor_type for t in gguf.GGUFReader(path).tensors} for path in files]
    assert formats[0] == formats[1]
    want, ours, theirs = (witness_models.decoded(path) for path in (source, *files))
    for tensor, x in want.items():
        if tensor.endswith(".weight") and x.ndim == 2:
            error, bound = (np.square(y[tensor] - x, dtype=np.float64).sum() for y in (ours, theirs))
            assert error < bound, tensor


def test_the_mix(model: Path) -> None:
    """What is sensitive is finer, and --tensor has the last word."""
    path = model / "mix.gguf"
    run("quantize", model / "random.gguf", path, "--type", "q4_mix", "--tensor", "blocks.1.att=q8_0")
    formats = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    finer = {
        "token_embd.weight",
        "output.weight",
        "blk.0.time_mix_value.weight",
        "blk.2.time_mix_output.weight",
    }
    assert {formats[name] for name in finer} == {"Q5_K"}
    assert {formats[f"blk.{i}.channel_mix_{c}.weight"] for i in range(3) for c in ("key", "value")} == {
        "Q4_K"
    }
    assert {formats[f"blk.1.time_mix_{c}.weight"] for c in ("key", "value", "receptance", "output")} == {
        "Q8_0"
    }
    assert {formats[f"blk.{i}.time_mix_{c}1.weight"] for i in range(3) for c in "wavg"} == {"F32"}


LOGITS = """
import sys, numpy as np, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=512, n_batch=64, n_ubatch=64, logits_all=True, verbose=False)
model.eval([int(t) for t in sys.argv[3].split(",")])
np.save(sys.argv[2], np.array(model.scores[: model.n_tokens], np.float32))
"""


@pytest.mark.parametrize(("kind", "bound"), [("f32", 1e-9), ("f16", 1e-5)])
def test_llama_agrees_on_what_convert_writes(model: Path, kind: str, bound: float) -> None:
    path = model / f"llama-{kind}.gguf"
    run("convert", model / "random.safetensors", path, "--vocab", model / "vocab.txt", "--type", kind)
    ids = [int(t) for t in np.random.default_rng(5).integers(1, 262, 40)]
    llama(LOGITS, path, model / "logits.npy", ",".join(map(str, ids)))
    tensors = witness_models.decoded(path)
    forward = reference_forward.Model(tensors, np.float64)
    want, found = np.array([forward.forward(t) for t in ids]), np.load(model / "logits.npy")
    assert ((found - want) ** 2).sum() / (want**2).sum() < bound


def test_rwkv_6_goes_to_llama_and_back(tmp_path: Path) -> None:
    official = witness_versions.random_model("v6", 64, np.random.default_rng(7))
    save_file(official, tmp_path / "v6.safetensors")
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("".join(f"{i} {bytes([i])!r} 1\n" for i in range(1, 64)), encoding="utf-8")
    run("convert", tmp_path / "v6.safetensors", tmp_path / "v6.gguf", "--vocab", vocab)
    run("convert", tmp_path / "v6.gguf", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == official.keys()
    for name, x in official.items():
        np.testing.assert_array_equal(back[name], x, name)
    ids = [int(t) for t in np.random.default_rng(8).integers(1, 64, 40)]
    llama(LOGITS, tmp_path / "v6.gguf", tmp_path / "logits.npy", ",".join(map(str, ids)))
    forward = reference_forward.Model(official, np.float64)
    want, found = np.array([forward.forward(t) for t in ids]), np.load(tmp_path / "logits.npy")
    assert ((found - want) ** 2).sum() / (want**2).sum() < 1e-9


def test_a_trained_model_still_reverses_digits(model: Path) -> None:
    """From BlinkDL's file by way of GGUF and back: the logits of the published model, at every position."""
    source = REVERSE / "reverse_rwkv7_L4_D128_head64.safetensors"
    if not source.exists():
        pytest.skip(f"no {source}")
    digits = "".join(f"{i + 1} {c.encode()!r} 1\n" for i, c in enumerate("0123456789,#"[1:]))
    (model / "digits.txt").write_text(digits)
    run("convert", source, model / "reverse.gguf", "--vocab", model / "digits.txt", "--type", "f32")
    run("convert", model / "reverse.gguf", model / "reverse.safetensors")
    want, found = load_file(source), load_file(model / "reverse.safetensors")
    for name, x in found.items():
        np.testing.assert_array_equal(x, want[name].reshape(x.shape), err_msg=name)
    assert set(want) - set(found) <= {f"blocks.0.att.v{i}" for i in "012"}


def test_compare_is_what_numpy_computes(model: Path) -> None:
    text = model / "text.txt"
    text.write_bytes(bytes(np.random.default_rng(9).integers(0, 256, 300, np.uint8)))
    run("quantize", model / "random.gguf", model / "q3.gguf", "--type", "q3_k_m")
    found = json.loads(
        run("compare", model / "random.gguf", model / "q3.gguf", "--json", "--text", text, text)
    )
    tokens = json.loads(run("tokenize", "--json", "--vocab", model / "vocab.txt", stdin=text.read_bytes()))[
        "tokens"
    ]
    assert 250 < len(tokens) <= 300

    def logits(name: str) -> np.ndarray:
        forward = reference_forward.Model(witness_models.decoded(model / name), np.float64)
        return np.array([forward.forward(t) for t in tokens])

    a, b = logits("random.gguf"), logits("q3.gguf")
    log_a, log_b = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (a, b))
    kl = (np.exp(log_a) * (log_a - log_b)).sum(1)
    after = np.arange(len(tokens) - 1), tokens[1:]
    want = {
        "tokens": 2 * len(tokens),
        "perplexity_a": np.exp(-log_a[after].mean()),
        "perplexity_b": np.exp(-log_b[after].mean()),
        "kl_mean": kl.mean(),
        "kl_median": np.quantile(np.tile(kl, 2), 0.5),
        "kl_99": np.quantile(np.tile(kl, 2), 0.99),
        "kl_max": kl.max(),
        "top1_agreement": (a.argmax(1) == b.argmax(1)).mean(),
        "logits_max": np.abs(a - b).max(),
        "logits_nmse": ((a - b) ** 2).sum() / (a**2).sum(),
    }
    for name, x in want.items():
        assert found[name] == pytest.approx(x, rel=2e-3), name
