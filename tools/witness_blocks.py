"""Random blocks of every weight format and their values by gguf.quants, for tests/format.rs.

usage: witness_blocks.py DIR    (writes DIR/<format>.bin and DIR/<format>.f32)
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

# Byte offsets of the f16 numbers of a block.
F16 = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
}
BLOCKS = 256
# Zeros, ones, subnormals (smallest, largest), smallest normal.
SPECIAL = np.array(
    [0x0000, 0x8000, 0x3C00, 0xBC00, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0123, 0x0400], np.uint16
)


def numbers(rng: np.random.Generator, n: int) -> np.ndarray:
    """`n` f16 numbers as u16: the special ones shuffled among normal draws."""
    x = rng.normal(size=n).astype(np.float16).view(np.uint16)
    at = rng.permutation(n)[: 4 * len(SPECIAL)]
    x[at] = np.tile(SPECIAL, 4)
    return x


def blocks(name: str, rng: np.random.Generator) -> np.ndarray:
    """Bytes [BLOCKS, bytes of a block]."""
    if name == "F32":
        return rng.normal(size=(BLOCKS, 1)).astype("<f4").view(np.uint8)
    if name == "F16":
        return numbers(rng, BLOCKS).astype("<u2").reshape(-1, 1).view(np.uint8)
    if name == "BF16":
        x = rng.normal(size=BLOCKS).astype("<f4").view("<u4") >> 16
        x[:3] = [0x0000, 0x8000, 0x0001]
        return x.astype("<u2").reshape(-1, 1).view(np.uint8)
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    x = rng.integers(0, 256, (BLOCKS, size), np.uint8)
    for at in F16[name]:
        x[:, at : at + 2] = numbers(rng, BLOCKS).astype("<u2").reshape(-1, 1).view(np.uint8)
    return x


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    for name in ["F32", "F16", "BF16", *F16]:
        x = np.ascontiguousarray(blocks(name, rng)).reshape(1, -1)
        y = dequantize(x, GGMLQuantizationType[name]).astype("<f4").ravel()
        assert np.isfinite(y).all()
        (out / f"{name.lower()}.bin").write_bytes(x.tobytes())
        (out / f"{name.lower()}.f32").write_bytes(y.tobytes())


if __name__ == "__main__":
    main()
