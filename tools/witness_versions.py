"""Models of RWKV-4, 5 and 6 and the answers of an independent forward pass to them, for tests/versions.rs.

usage: witness_versions.py DIR [SHARED]

For each version a random model, DIR/<version>.safetensors under official names, of RWKV-6 also DIR/v6.gguf with
llama.cpp's names, a quantized half and a stream that is halved; and logits at every position and the last state, in f64
over the weights as they are stored, DIR/<model>.golden; for RWKV-6 also a trained state, and what it makes of them. Where the folder SHARED exists, the golden vectors of rwkv.cpp's
tiny models, as safetensors.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from reference_forward import Model
from safetensors.numpy import save_file

L, C, F, V = 4, 128, 192, 64
RANK, DECAY = 32, 64
RESCALE = 2
# Layers of 5.0 have no gate; until 5.2 decay and bonus are one number for each head.
VERSIONS = {"v4": C, "v5_0": 64, "v5_1": 32, "v5_2": 64, "v6": 64, "v6_h32": 32}


def random_model(version: str, n: int, rng: np.random.Generator) -> dict:
    """Tensors under official names, heads of n."""
    h, w = C // n, {}
    six, four = version.startswith("v6"), version == "v4"

    def norm(name: str) -> None:
        w[f"{name}.weight"] = rng.normal(1, 0.1, C)
        w[f"{name}.bias"] = rng.normal(0, 0.1, C)

    def matrix(name: str, rows: int, columns: int) -> None:
        w[f"{name}.weight"] = rng.normal(0, columns**-0.5, (rows, columns))

    matrix("emb", V, C)
    matrix("head", V, C)
    norm("blocks.0.ln0")
    norm("ln_out")
    for i in range(L):
        b = f"blocks.{i}."
        att, ffn = b + "att.", b + "ffn."
        norm(b + "ln1")
        norm(b + "ln2")
        gate = [] if version in ("v4", "v5_0") else ["gate"]
        for name in ["receptance", "key", "value", "output", *gate]:
            matrix(att + name, C, C)
        matrix(ffn + "key", F, C)
        matrix(ffn + "value", C, F)
        matrix(ffn + "receptance", C, C)
        mix = "time_maa_" if six else "time_mix_"
        letters = "xwkvrg" if six else "kvrg" if gate else "kvr"
        for name in [att + mix + x for x in letters] + [ffn + mix + x for x in "kr"]:
            w[name] = rng.uniform(0, 1, (1, 1, C))
        if not four:
            norm(att + "ln_x")
        if four:
            w[att + "time_decay"], w[att + "time_first"] = rng.normal(-1, 2, C), rng.normal(0, 1, C)
        elif version in ("v5_0", "v5_1"):
            # Slow, as trained ones are: what heads give is then of many tokens, and seldom vanishes before its norm.
            w[att + "time_decay"], w[att + "time_first"] = rng.normal(-3, 1, h), rng.normal(-1, 0.5, h)
        else:
            w[att + "time_decay"] = rng.normal(-1, 1, (1, 1, C) if six else (h, n))
            w[att + "time_faaaa"] = rng.normal(0, 0.5, (h, n))
        if six:
            w[att + "time_maa_w1"] = rng.normal(0, C**-0.5, (C, 5 * RANK))
            w[att + "time_maa_w2"] = rng.normal(0, 0.3 * RANK**-0.5, (5, RANK, C))
            w[att + "time_decay_w1"] = rng.normal(0, C**-0.5, (C, DECAY))
            w[att + "time_decay_w2"] = rng.normal(0, DECAY**-0.5, (DECAY, C))
    return {name: x.astype(np.float32) for name, x in w.items()}


def write_gguf(path: Path, official: dict) -> dict:
    """Writes an RWKV-6 as llama.cpp's converter does; its tensors as they are then stored, under official names."""
    g, stored = gguf.GGUFWriter(str(path), "rwkv6"), {}
    n = official["blocks.0.att.time_faaaa"].shape[1]
    g.add_context_length(1024)
    g.add_embedding_length(C)
    g.add_block_count(L)
    g.add_layer_norm_eps(1e-5)
    g.add_wkv_head_size(n)
    g.add_rescale_every_n_layers(RESCALE)
    g.add_time_mix_extra_dim(RANK)
    g.add_time_decay_extra_dim(DECAY)
    g.add_feed_forward_length(F)
    g.add_head_count(0)
    g.add_tokenizer_model("rwkv")
    g.add_token_list([b"<s>", *(f"\\x{i:02x}".encode() for i in range(1, V))])
    g.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (V - 1))
    g.add_bos_token_id(0)
    g.add_eos_token_id(0)
    names = {"emb": "token_embd", "head": "output", "ln_out": "output_norm", "blocks.0.ln0": "token_embd_norm"}
    parts = {"ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln", "att.time_faaaa": "time_mix_first"}

    def put(name: str, to: str, x: np.ndarray, kind: GGMLQuantizationType, back: object = None) -> None:
        raw = gguf.quantize(np.ascontiguousarray(x, np.float32), kind)
        g.add_tensor(name, raw, raw_dtype=kind)
        values = gguf.dequantize(raw, kind).reshape(x.shape)
        stored[to] = back(values) if back else values

    for name, x in official.items():
        layer, part = name.split(".", 2)[1:] if name.startswith("blocks.") else (None, name)
        stem, suffix = name.rsplit(".", 1) if name.endswith((".weight", ".bias")) else (name, "weight")
        f32, matrix = GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0
        if stem in names:
            put(f"{names[stem]}.{suffix}", name, x, matrix if x.ndim > 1 else f32)
            continue
        part, to = part.removesuffix("." + suffix), f"blk.{layer}."
        tail = part.split(".")[-1]
        if part in parts:
            put(f"{to}{parts[part]}.{suffix}", name, x, f32)
        elif part.startswith("ffn.time_maa_"):
            put(f"{to}channel_mix_lerp_{tail[-1]}.weight", name, x, f32)
        elif tail == "time_maa_x":
            put(f"{to}time_mix_lerp_x.weight", name, x, f32)
        elif tail == "time_maa_w":
            order = [official[f"blocks.{layer}.att.time_maa_{c}"] for c in "wkvrg"]
            g.add_tensor(f"{to}time_mix_lerp_fused.weight", np.stack(order))
        elif tail in ("time_maa_w1", "time_decay_w1", "time_decay_w2"):
            kind = GGMLQuantizationType.F16 if tail == "time_maa_w1" else f32
            put(f"{to}{tail.replace('maa', 'mix').replace('time_decay', 'time_mix_decay')}.weight", name, x.T, kind, np.transpose)
        elif tail == "time_maa_w2":
            put(f"{to}time_mix_w2.weight", name, x.swapaxes(1, 2), f32, lambda x: x.swapaxes(1, 2))
        elif tail == "time_decay":
            put(f"{to}time_mix_decay.weight", name, x.ravel(), f32)
        elif x.ndim == 2:
            scale = 2 ** (int(layer) // RESCALE) if part in ("att.output", "ffn.value") else 1
            put(f"{to}{part.replace('att.', 'time_mix_').replace('ffn.', 'channel_mix_')}.weight", name, x / scale, matrix)
    g.write_header_to_file()
    g.write_kv_data_to_file()
    g.write_tensors_to_file()
    g.close()
    return {**official, **stored}


def of_web_rwkv(name: str) -> str:
    """The name in web-rwkv's files."""
    return name.replace("time_maa", "time_mix").replace("time_faaaa", "time_first")


def turned(name: str, x: np.ndarray) -> np.ndarray:
    """As web-rwkv's converter has it: LoRAs with rows and columns exchanged."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)) if name.endswith(("_w1", "_w2")) else x


def of_transformers(name: str) -> str:
    """The name in Hugging Face's files."""
    for part, to in (("att.", "attention."), ("ffn.", "feed_forward."), (".ln0.", ".pre_ln.")):
        name = name.replace(part, to)
    return name if name.startswith("head") else "rwkv." + name.replace("emb.", "embeddings.")


def golden(model: Model, ids: np.ndarray) -> dict:
    """Logits at every position, and the last state."""
    logits = np.array([model.forward(t) for t in ids])
    state = {"att_shift": np.array(model.xa), "wkv": np.array(model.st), "ffn_shift": np.array(model.xf)}
    return {"ids": ids.astype(np.int32), "logits": logits, **state}


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(13)
    for version, n in VERSIONS.items():
        official, ids = random_model(version, n, rng), rng.integers(0, V, 40)
        save_file(official, out / f"{version}.safetensors")
        save_file(golden(Model(official, np.float64), ids), out / f"{version}.golden")
        if version == "v6":
            # A trained state has the value index before the key index.
            trained = rng.normal(0, 1, (L, C // n, n, n)).astype(np.float32)
            tuned = {f"blocks.{i}.att.time_state": x for i, x in enumerate(trained)}
            save_file(tuned, out / "v6_state.safetensors")
            model = Model(official, np.float64)
            model.st = list(trained.swapaxes(2, 3).astype(np.float64))
            save_file(golden(model, ids), out / "v6_state.golden")
            save_file({of_web_rwkv(k): turned(k, x) for k, x in official.items()}, out / "v6.st")
            save_file({of_transformers(k): x for k, x in official.items()}, out / "v6_hf.safetensors")
            stored = write_gguf(out / "v6.gguf", official)
            save_file(golden(Model(stored, np.float64, rescale=RESCALE), ids), out / "v6_gguf.golden")

    shared = Path(sys.argv[2]) / "models/third-party/tiny-rwkv" if len(sys.argv) > 2 else None
    for path in sorted(shared.glob("*.npz")) if shared else []:
        z = np.load(path)
        save_file({k: np.ascontiguousarray(z[k]) for k in z}, out / f"{path.stem}.golden")


if __name__ == "__main__":
    main()
