"""The CUDA kernel against the loop: y and all gradients."""

import shutil

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; make training-test installs it")

from wkv7 import wkv7, wkv7_loop  # noqa: E402


@pytest.mark.skipif(not (torch.cuda.is_available() and shutil.which("nvcc")), reason="needs an NVIDIA GPU and nvcc")
def test_the_kernel_is_the_loop() -> None:
    torch.manual_seed(0)
    r, w, k, v, a, b = (torch.randn(2, 64, 3, 64, device="cuda") for _ in range(6))
    a = torch.nn.functional.normalize(a, dim=-1)
    b = -a * torch.rand_like(b)
    inputs = [x.bfloat16().requires_grad_() for x in (r, w * 2, k * 0.3, v, a, b)]
    exact = [x.detach().float().requires_grad_() for x in inputs]
    dy = torch.randn_like(r).bfloat16()
    y = wkv7(*inputs)
    y.backward(dy)
    z, _ = wkv7_loop(*exact)
    z.backward(dy.float())
    for found, expected in [(y, z), *((p.grad, q.grad) for p, q in zip(inputs, exact))]:
        # bf16 rounds to 8 bits, 2^-9 of a value at most.
        assert (found.float() - expected).norm() < 2**-7 * expected.norm()
