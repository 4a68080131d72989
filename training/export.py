"""Writes trained weights as safetensors and as GGUF (llama.cpp's arch rwkv7), both from the same f16 values.

export.py MODEL.pth VOCAB.txt OUT     writes OUT.safetensors and OUT-f16.gguf
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

import vocabulary
from model import Config
from wkv7 import HEAD

# Official names of a layer, and those of GGUF.
NAMES = {
    "ln1": "attn_norm",
    "ln2": "attn_norm_2",
    "att.ln_x": "time_mix_ln",
    "att.receptance": "time_mix_receptance",
    "att.key": "time_mix_key",
    "att.value": "time_mix_value",
    "att.output": "time_mix_output",
    "ffn.key": "channel_mix_key",
    "ffn.value": "channel_mix_value",
}
Weights = dict[str, torch.Tensor]


def config(weights: Weights) -> Config:
    vocab, dim = weights["emb.weight"].shape
    return Config(1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")), dim, vocab)


def tensors(weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """GGUF names and arrays, in the shapes of llama.cpp's own converter."""

    def get(name: str) -> np.ndarray:
        return weights[name].float().numpy()

    yield "token_embd.weight", get("emb.weight")
    for part in ("weight", "bias"):
        yield f"token_embd_norm.{part}", get(f"blocks.0.ln0.{part}")
        yield f"output_norm.{part}", get(f"ln_out.{part}")
    yield "output.weight", get("head.weight")
    for i in range(config(weights).layers):
        b, o = f"blk.{i}.", f"blocks.{i}."
        for official, name in NAMES.items():
            for part in ("weight", "bias"):
                if f"{o}{official}.{part}" in weights:
                    yield f"{b}{name}.{part}", get(f"{o}{official}.{part}")
        yield b + "time_mix_lerp_fused.weight", np.stack([get(f"{o}att.x_{c}").reshape(1, 1, -1) for c in "rwkvag"])
        yield b + "channel_mix_lerp_k.weight", get(o + "ffn.x_k").reshape(-1)
        for c in "wavg":
            source = "a" if c == "v" and i == 0 else c  # layer 0 has no value residual; llama.cpp wants fillers
            for n in "012":
                if c + n != "g0":
                    x = get(f"{o}att.{source}{n}")
                    yield f"{b}time_mix_{c}{n}.weight", x.reshape(-1) if n == "0" else np.ascontiguousarray(x.T)
        for name in ("k_k", "k_a", "r_k"):
            yield f"{b}time_mix_{name}.weight", get(f"{o}att.{name}").reshape(-1)


def stays_f32(name: str, array: np.ndarray) -> bool:
    small = any(part in name for part in ("_w1.", "_w2.", "lerp_fused"))
    return array.ndim < 2 or small or name.endswith("_norm.weight")


def write_gguf(weights: Weights, tokens: dict[int, bytes], path: Path) -> None:
    shape = config(weights)
    ranks = shape.lora_ranks()
    w = gguf.GGUFWriter(path, "rwkv7")
    w.add_type("model")
    w.add_name("RWKV-7 mail")
    w.add_license("MIT OR Apache-2.0")
    w.add_context_length(1048576)
    w.add_embedding_length(shape.dim)
    w.add_block_count(shape.layers)
    w.add_layer_norm_eps(1e-5)
    w.add_wkv_head_size(HEAD)
    w.add_decay_lora_rank(ranks["w"])
    w.add_iclr_lora_rank(ranks["a"])
    w.add_value_residual_mix_lora_rank(ranks["v"])
    w.add_gate_lora_rank(ranks["g"])
    w.add_feed_forward_length(4 * shape.dim)
    w.add_head_count(0)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_tokenizer_model("rwkv")
    w.add_token_list([b"<s>"] + [repr(tokens[i])[2:-1].encode() for i in range(1, shape.vocab)])
    w.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (shape.vocab - 1))
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    w.add_eot_token_id(next(i for i, token in tokens.items() if token == b"\n\n"))
    w.add_chat_template("rwkv-world")
    for name, array in tensors(weights):
        w.add_tensor(name, array if stays_f32(name, array) else array.astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def export(weights: Weights, vocab: Path, out: str) -> Weights:
    """Writes both files, and gives the weights as they stand in them."""
    weights = {name: x.detach().half().cpu().contiguous() for name, x in weights.items()}
    save_file(weights, f"{out}.safetensors")
    write_gguf(weights, vocabulary.read(vocab), Path(f"{out}-f16.gguf"))
    return weights


def main() -> None:
    source, vocab, out = sys.argv[1:]
    export(torch.load(source, map_location="cpu", weights_only=True), Path(vocab), out)


if __name__ == "__main__":
    main()
