"""Models and the answers of an independent forward pass to them, for tests/model.rs.

usage: witness_models.py DIR [SHARED]

For each weight type a random RWKV-7 (DIR/<type>.gguf) whose matrices are random blocks of that type, with
logits at every position in f64 over the weights as gguf.quants decodes them (DIR/<type>.safetensors); the same
for the embedded model, with hidden vectors and states (DIR/embedded.golden). Where the folder SHARED exists,
also the golden vectors of the trained models in it, as safetensors. Where PyTorch is installed, files of its own.
"""

import importlib.util
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from reference_forward import Model
from safetensors.numpy import save_file
from witness_blocks import F16

L, C, F, V, N = 2, 256, 512, 288, 64
RANKS = {"w": 32, "a": 32, "v": 32, "g": 64}
# Formats with a minimum: which of their f16 numbers it is, and how many scales it takes to centre the codes.
MINIMUM = {"Q4_1": (2, -7.5), "Q5_1": (2, -15.5), "Q2_K": (82, 1.5), "Q4_K": (2, 7.5), "Q5_K": (2, 15.5)}


def matrix(rng: np.random.Generator, kind: str, rows: int, columns: int, gain: float) -> tuple:
    """Raw bytes of a random matrix and its values, of standard deviation gain / √columns."""
    std = gain / np.sqrt(columns)
    qtype = GGMLQuantizationType[kind]
    if kind in ("F32", "F16", "BF16"):
        raw = gguf.quantize(rng.normal(0, std, (rows, columns)).astype(np.float32), qtype)
        return raw, gguf.dequantize(raw, qtype)
    length, size = GGML_QUANT_SIZES[qtype]
    raw = rng.integers(0, 256, (rows * columns // length, size), np.uint8)

    def scale(d: float) -> np.ndarray:
        for at in F16[kind]:
            x = d * MINIMUM[kind][1] if kind in MINIMUM and at == MINIMUM[kind][0] else d
            raw[:, at : at + 2] = np.frombuffer(np.float16(x).tobytes(), np.uint8)
        return gguf.dequantize(raw.reshape(rows, -1), qtype)

    values = scale(std / scale(1.0).std())
    return raw.reshape(rows, -1), values


def random_model(path: Path, kind: str, rng: np.random.Generator) -> dict:
    """Writes a GGUF and gives its tensors under official names."""
    w = gguf.GGUFWriter(str(path), "rwkv7")
    w.add_context_length(1024)
    w.add_embedding_length(C)
    w.add_block_count(L)
    w.add_layer_norm_eps(1e-5)
    w.add_wkv_head_size(N)
    w.add_feed_forward_length(F)
    w.add_head_count(0)
    official = {}

    def quantized(name: str, to: str, rows: int, columns: int, gain: float) -> None:
        raw, official[to] = matrix(rng, kind, rows, columns, gain)
        w.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[kind])

    def plain(name: str, to: str, x: np.ndarray) -> None:
        official[to] = x.astype(np.float32)
        w.add_tensor(name, official[to])

    def norm(name: str, to: str) -> None:
        plain(f"{name}.weight", f"{to}.weight", rng.normal(1, 0.1, C))
        plain(f"{name}.bias", f"{to}.bias", rng.normal(0, 0.1, C))

    quantized("token_embd.weight", "emb.weight", V, C, 1)
    norm("token_embd_norm", "blocks.0.ln0")
    norm("output_norm", "ln_out")
    quantized("output.weight", "head.weight", V, C, 2)
    for i in range(L):
        b, o = f"blk.{i}.", f"blocks.{i}."
        norm(b + "attn_norm", o + "ln1")
        norm(b + "attn_norm_2", o + "ln2")
        norm(b + "time_mix_ln", o + "att.ln_x")
        for name in ("receptance", "key", "value", "output"):
            quantized(f"{b}time_mix_{name}.weight", f"{o}att.{name}.weight", C, C, 1)
        quantized(b + "channel_mix_key.weight", o + "ffn.key.weight", F, C, 1)
        quantized(b + "channel_mix_value.weight", o + "ffn.value.weight", C, F, 1)
        mix = rng.uniform(0, 1, (6, 1, 1, C)).astype(np.float32)
        w.add_tensor(b + "time_mix_lerp_fused.weight", mix)
        official.update({f"{o}att.x_{c}": row.ravel() for c, row in zip("rwkvag", mix, strict=True)})
        plain(b + "channel_mix_lerp_k.weight", o + "ffn.x_k", rng.uniform(0, 1, C))
        for c, rank in RANKS.items():
            down, up = rng.normal(0, C**-0.5, (rank, C)), rng.normal(0, rank**-0.5, (C, rank))
            w.add_tensor(f"{b}time_mix_{c}1.weight", down.astype(np.float32))
            w.add_tensor(f"{b}time_mix_{c}2.weight", up.astype(np.float32))
            official[f"{o}att.{c}1"] = down.astype(np.float32).T
            official[f"{o}att.{c}2"] = up.astype(np.float32).T
            if c != "g":
                plain(f"{b}time_mix_{c}0.weight", f"{o}att.{c}0", rng.normal(0, 1, C))
        plain(b + "time_mix_k_k.weight", o + "att.k_k", rng.normal(0.7, 0.1, C))
        plain(b + "time_mix_k_a.weight", o + "att.k_a", rng.normal(1, 0.1, C))
        r_k = rng.normal(0, 0.1, C).astype(np.float32)
        w.add_tensor(b + "time_mix_r_k.weight", r_k)
        official[o + "att.r_k"] = r_k.reshape(-1, N)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return official


NAMES = {
    "token_embd": "emb",
    "token_embd_norm": "blocks.0.ln0",
    "output_norm": "ln_out",
    "output": "head",
    "attn_norm": "ln1",
    "attn_norm_2": "ln2",
    "time_mix_ln": "att.ln_x",
    "channel_mix_key": "ffn.key",
    "channel_mix_value": "ffn.value",
    "channel_mix_lerp_k": "ffn.x_k",
}
MATRICES = ("receptance", "key", "value", "output")


def decoded(path: Path) -> dict:
    """The tensors of a GGUF as gguf.quants decodes them, under official names."""
    official = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        *block, name, suffix = tensor.name.rsplit(".", 2) if tensor.name.startswith("blk.") else tensor.name.split(".")
        layer = block[0].replace("blk", "blocks") + "." if block else ""
        part = name.removeprefix("time_mix_")
        if part == "lerp_fused":
            mix = values.reshape(-1, values.shape[-1])
            official.update({f"{layer}att.x_{c}": row for c, row in zip("rwkvag", mix, strict=False)})
        elif name in NAMES:
            x = NAMES[name]
            official[layer + x + ("" if x == "ffn.x_k" else f".{suffix}")] = values
        elif part in MATRICES:
            official[f"{layer}att.{part}.weight"] = values
        elif part[-1] in "12":
            official[f"{layer}att.{part}"] = values.T
        elif part == "r_k":
            official[f"{layer}att.r_k"] = values.reshape(-1, N)
        else:
            official[f"{layer}att.{part}"] = values.ravel()
    return official


def golden(path: Path, rng: np.random.Generator) -> dict:
    """What a model file gives after random tokens, in f64."""
    model, out = Model(decoded(path), np.float64), {}
    for i, count in enumerate([1, 7, 40]):
        ids = rng.integers(1, model.V, count)
        model.reset()
        hidden = [model.hidden(t) for t in ids][-1]
        logits = model.w["head.weight"] @ hidden
        state = {"att_shift": np.array(model.xa), "wkv": np.array(model.st), "ffn_shift": np.array(model.xf)}
        for name, x in {"ids": ids.astype(np.int32), "hidden": hidden, "logits": logits, **state}.items():
            out[f"{i}_{name}"] = np.ascontiguousarray(x)
    return out


def torch_files(out: Path, rng: np.random.Generator) -> None:
    """What torch.save writes of tensors that share, skip and turn their storages, and the same as safetensors."""
    import torch
    from safetensors.torch import save_file as save

    for kind, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        w = torch.from_numpy(rng.normal(size=(6, 4))).to(dtype)
        tensors = torch.nn.LayerNorm(4, dtype=dtype).state_dict(prefix="ln_out.")
        tensors |= {"emb.weight": w, "head.weight": w.t(), "blocks.0.ln0.weight": w[:, 1], "blocks.0.ln0.bias": w[2]}
        tensors["blocks.0.ln1.weight"] = torch.nn.Parameter(w[0].clone())
        torch.save(tensors, out / f"torch-{kind}.pth")
        save({name: x.detach().clone().contiguous() for name, x in tensors.items()}, out / f"torch-{kind}.st")


class Watched:
    """A matrix that adds up the squares of what it is multiplied with."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix, self.squares = matrix, np.zeros(matrix.shape[1])

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        self.squares += x**2
        return self.matrix @ x


def importance(model: Model, ids: np.ndarray) -> dict:
    """How much each column of each matrix matters: the root of its mean square, relative to all of them."""
    names = [name for name, x in model.w.items() if name.endswith(".weight") and x.ndim == 2 and name != "emb.weight"]
    plain = dict(model.w)
    model.w.update({name: Watched(model.w[name]) for name in names})
    model.reset()
    for t in ids:
        model.forward(t)
    squares = {name: model.w[name].squares for name in names}
    model.w = plain
    return {name: np.sqrt(x / x.mean()) for name, x in squares.items()}


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    if importlib.util.find_spec("torch"):
        torch_files(out, np.random.default_rng(12))
    for kind in ["F32", "F16", "BF16", *F16]:
        model = Model(random_model(out / f"{kind.lower()}.gguf", kind, rng), np.float64)
        ids = rng.integers(0, V, 24)
        logits = np.array([model.forward(t) for t in ids])
        save_file({"ids": ids.astype(np.int32), "logits": logits}, out / f"{kind.lower()}.safetensors")
        if kind == "F32":
            save_file(importance(model, ids), out / "importance.golden")

    embedded = Path(__file__).parents[1] / "models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf"
    save_file(golden(embedded, rng), out / "embedded.golden")

    shared = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if not (shared and shared.is_dir()):
        return
    z = np.load(shared / "models/third-party/reverse-rwkv7/reverse_rwkv7_L4_D128_head64.npz")
    arrays = {k: np.ascontiguousarray(z[k]) for k in z if z[k].dtype.kind in "fiu"}
    save_file(arrays, out / "reverse-rwkv7.golden")
    z = np.load(shared / "models/rwkv7-mail/reference.npz")
    save_file({k: np.ascontiguousarray(z[k]) for k in z}, out / "rwkv7-mail.golden")


if __name__ == "__main__":
    main()
