"""How close logits are to an f64 forward over the exactly decoded weights: ours, and llama.cpp's on the same file.

usage: fidelity.py [--fast] [--tokens N] [--types TYPE,...] MODEL.gguf...

Each model is quantized by llama.cpp to each type; `--fast` lets us round activations to 8 bits. Printed is the normalized mean square error
`Σ (y − f64)² / Σ f64²` over the logits at every position. Needs web_rwkv_py, llama_cpp and gguf.
"""

import argparse
import ctypes
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import web_rwkv_py
from reference_forward import Model

MATRICES = {"key": "att.key", "value": "att.value", "receptance": "att.receptance", "output": "att.output"}
VECTORS = ("w0", "a0", "v0", "k_k", "k_a")
TYPES = "F32,F16,BF16,Q8_0,Q4_0,Q4_1,Q5_0,Q5_1,Q2_K,Q3_K_M,Q4_K_M,Q5_K_M,Q6_K,IQ4_NL,IQ4_XS"


def official(path: Path) -> dict[str, np.ndarray]:
    """The tensors of an RWKV-7 GGUF under official names, as `gguf.quants` decodes them."""
    reader = gguf.GGUFReader(path)
    t = {x.name: gguf.dequantize(x.data, x.tensor_type).reshape(x.shape[::-1]) for x in reader.tensors}
    size = int(reader.fields["rwkv7.wkv.head_size"].parts[-1][0])
    channels = t["token_embd.weight"].shape[1]
    out = {"emb.weight": t["token_embd.weight"], "head.weight": t["output.weight"]}
    layers = sum(name.endswith("attn_norm.weight") for name in t)
    for part in ("weight", "bias"):
        out[f"blocks.0.ln0.{part}"], out[f"ln_out.{part}"] = t[f"token_embd_norm.{part}"], t[f"output_norm.{part}"]
    for i in range(layers):
        to, b = f"blocks.{i}.", {name.removeprefix(f"blk.{i}."): x for name, x in t.items() if f"blk.{i}." in name}
        for part in ("weight", "bias"):
            for ours, theirs in (("ln1", "attn_norm"), ("ln2", "attn_norm_2"), ("att.ln_x", "time_mix_ln")):
                out[f"{to}{ours}.{part}"] = b[f"{theirs}.{part}"]
        for theirs, ours in MATRICES.items():
            out[f"{to}{ours}.weight"] = b[f"time_mix_{theirs}.weight"]
        for name in ("key", "value"):
            out[f"{to}ffn.{name}.weight"] = b[f"channel_mix_{name}.weight"]
        for name, row in zip("rwkvag", b["time_mix_lerp_fused.weight"].reshape(6, channels), strict=True):
            out[f"{to}att.x_{name}"] = row
        for name in "wavg":
            for half in "12":
                out[f"{to}att.{name}{half}"] = b[f"time_mix_{name}{half}.weight"].T
        for name in VECTORS:
            out[f"{to}att.{name}"] = b[f"time_mix_{name}.weight"].reshape(-1)
        out[f"{to}att.r_k"] = b["time_mix_r_k.weight"].reshape(-1, size)
        out[f"{to}ffn.x_k"] = b["channel_mix_lerp_k.weight"].reshape(-1)
    return out


def llama(path: Path, ids: list[int]) -> np.ndarray:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    context_params = llama_cpp.llama_context_default_params()
    context_params.n_ctx = context_params.n_batch = context_params.n_ubatch = len(ids)
    context = llama_cpp.llama_init_from_model(model, context_params)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
        batch.seq_id[i][0], batch.logits[i] = 0, True
    if llama_cpp.llama_decode(context, batch) != 0:
        raise RuntimeError("llama_decode failed")
    rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (vocab,)).copy() for i in range(len(ids))]
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.array(rows, np.float64)


def quantize(source: Path, to: Path, kind: str) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    name = "LLAMA_FTYPE_ALL_F32" if kind == "F32" else f"LLAMA_FTYPE_MOSTLY_{kind}"
    params.ftype, params.allow_requantize = getattr(llama_cpp, name), True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(to).encode(), ctypes.byref(params)) != 0:
        raise RuntimeError(f"{source}: no {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--fast", action="store_true")
    args = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    print("| model | type | web-rwkv, at once | one by one | llama.cpp | times closer |")
    print("| --- | --- | --- | --- | --- | --- |")
    for source in args.models:
        for kind in args.types.split(","):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.gguf"
                quantize(source, path, kind)
                exact = Model(official(path), np.float64)
                ids = [1 + i * 7919 % (exact.V - 1) for i in range(args.tokens)]
                want = np.array([exact.forward(token) for token in ids])
                model = web_rwkv_py.Model(path, device="cpu", fast=args.fast)
                many = np.reshape(model.run_full(ids, 256), want.shape)
                model.clear_state()
                few = np.reshape(model.run_full(ids, 1), want.shape)
                errors = [((got - want) ** 2).sum() / (want**2).sum() for got in (many, few, llama(path, ids))]
                cells = [f"{error:.1e}" for error in errors]
                print(
                    "|", " | ".join([source.stem, kind, *cells, f"{errors[2] / max(errors[:2]):.0f}"]), "|", flush=True
                )


if __name__ == "__main__":
    main()
