"""The WKV-7 recurrence: a plain PyTorch loop (any device), and the CUDA kernel of wkv7.cu.

B sequences, T tokens, H heads of N. Inputs are [B, T, H, N]; w is raw, a decay of exp(-exp(-0.5) sigmoid(w)).
"""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import torch

HEAD = 64
CHUNK = 16


def wkv7_loop(r, w, k, v, a, b, state=None):
    """y and the last state [B, H, value, key]: S = S diag(decay) + (S a) bᵀ + v kᵀ, y = S r."""
    B, T, H, N = r.shape
    dtype, (r, w, k, v, a, b) = r.dtype, [x.float() for x in (r, w, k, v, a, b)]
    decay = torch.exp(-0.6065306597 * torch.sigmoid(w))
    S = torch.zeros(B, H, N, N, device=r.device) if state is None else state
    ys = []
    for t in range(T):
        Sa = torch.einsum("bhij,bhj->bhi", S, a[:, t])
        S = (
            S * decay[:, t, :, None, :]
            + Sa[..., None] * b[:, t, :, None, :]
            + v[:, t, :, :, None] * k[:, t, :, None, :]
        )
        ys.append(torch.einsum("bhij,bhj->bhi", S, r[:, t]))
    return torch.stack(ys, 1).to(dtype), S


@functools.cache
def _kernel() -> ctypes.CDLL:
    """Compiles wkv7.cu for the GPUs of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        library, source = Path(folder) / "wkv7.so", Path(__file__).parent / "wkv7.cu"
        nvcc = ["nvcc", "-O3", "--use_fast_math", "-arch=native", "-shared", "-Xcompiler", "-fPIC"]
        subprocess.run([*nvcc, "-o", library, source], check=True)
        return ctypes.CDLL(str(library))


def _call(name: str, B: int, T: int, H: int, *tensors: torch.Tensor) -> None:
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in tensors]
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    error = getattr(_kernel(), name)(B, T, H, *pointers, stream)
    if error:
        raise RuntimeError(f"wkv7 {name}: CUDA error {error}")


@torch.library.custom_op("mail::wkv7", mutates_args=())
def _wkv7(
    r: torch.Tensor, w: torch.Tensor, k: torch.Tensor, v: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    B, T, H, N = r.shape
    if T % CHUNK or N != HEAD or r.dtype != torch.bfloat16:
        raise ValueError(f"wkv7: expected bf16 [B, T, H, {HEAD}], T a multiple of {CHUNK}, found {r.dtype} {r.shape}")
    y = torch.empty_like(v)
    states = torch.empty(B, H, T // CHUNK, N, N, dtype=torch.float32, device=r.device)
    sa = torch.empty(B, T, H, N, dtype=torch.float32, device=r.device)
    _call("forward", B, T, H, r, w, k, v, a, b, y, states, sa)
    return y, states, sa


@_wkv7.register_fake
def _(r, w, k, v, a, b):
    B, T, H, N = r.shape
    return (
        torch.empty_like(v),
        r.new_empty(B, H, T // CHUNK, N, N, dtype=torch.float32),
        r.new_empty(B, T, H, N, dtype=torch.float32),
    )


@torch.library.custom_op("mail::wkv7_backward", mutates_args=())
def _wkv7_backward(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    dy: torch.Tensor,
    states: torch.Tensor,
    sa: torch.Tensor,
) -> list[torch.Tensor]:
    B, T, H, _ = r.shape
    grads = [torch.empty_like(x) for x in (r, w, k, v, a, b)]
    _call("backward", B, T, H, r, w, k, v, a, b, dy, states, sa, *grads)
    return grads


@_wkv7_backward.register_fake
def _(r, w, k, v, a, b, dy, states, sa):
    return [torch.empty_like(x) for x in (r, w, k, v, a, b)]


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1], output[2])


def _backward(ctx, dy, _states, _sa):
    *inputs, states, sa = ctx.saved_tensors
    return tuple(_wkv7_backward(*inputs, dy.contiguous(), states, sa))


_wkv7.register_autograd(_backward, setup_context=_save)


def wkv7(r, w, k, v, a, b):
    """y from a state of zeros."""
    if r.is_cuda and r.dtype == torch.bfloat16:
        return _wkv7(*[x.contiguous() for x in (r, w, k, v, a, b)])[0]
    return wkv7_loop(r, w, k, v, a, b)[0]
