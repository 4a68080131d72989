"""Quantizes a GGUF with llama.cpp, through an interpreter that has llama-cpp-python.

usage: llama_quantize.py IN.gguf OUT.gguf TYPE    (q4_k_m and the like)
"""

import ctypes
import sys

import llama_cpp


def main() -> None:
    source, target, name = sys.argv[1:]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name.upper()}")
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        sys.exit(f"{target}: llama.cpp cannot write it")


if __name__ == "__main__":
    main()
