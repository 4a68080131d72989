"""RWKV-7 "x070" with the parameter names and the initialisation of the official RWKV-LM."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from wkv7 import HEAD, wkv7, wkv7_loop


@dataclass
class Config:
    layers: int = 8
    dim: int = 512
    vocab: int = 8192

    def lora_ranks(self):
        """Widths of the LoRAs, growing with the square root of the model's."""
        scales = {"w": 2.5, "a": 2.5, "v": 1.7, "g": 5}
        return {name: max(32, round(scale * self.dim**0.5 / 32) * 32) for name, scale in scales.items()}


def shift(x, last=None):
    """The sequence one step later; `last` is the vector before its first position."""
    first = torch.zeros_like(x[:, :1]) if last is None else last[:, None]
    return torch.cat([first, x[:, :-1]], 1)


class Linear(nn.Linear):
    """No bias; fp32 weights, used in the dtype of the input."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class LayerNorm(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


def orthogonal(rows, columns, gain):
    if rows > columns:
        gain *= math.sqrt(rows / columns)
    return nn.init.orthogonal_(torch.empty(rows, columns), gain)


class TimeMix(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        C, L = config.dim, config.layers
        self.first, self.heads = layer == 0, C // HEAD
        depth, left = layer / (L - 1), 1 - layer / L
        ramp = torch.arange(C) / C
        linear = torch.arange(C) / (C - 1) - 0.5
        zigzag = (torch.arange(C) % HEAD - (HEAD - 1) / 2) / ((HEAD - 1) / 2)
        zigzag = zigzag * zigzag.abs()
        for name, power in {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}.items():
            self.register_parameter("x_" + name, vector(1 - ramp ** (power * left)))
        decay = -6 + 6 * (torch.arange(C) / (C - 1)) ** (1 + depth**0.3)
        bias = {"w": decay + 0.5 + zigzag * 2.5, "a": -0.19 + zigzag * 0.3 + linear * 0.4, "v": 0.73 - linear * 0.4}
        for name, rank in config.lora_ranks().items():
            self.register_parameter(name + "1", nn.Parameter(torch.zeros(C, rank)))
            self.register_parameter(name + "2", nn.Parameter(orthogonal(rank, C, 0.1)))
            if name in bias:
                self.register_parameter(name + "0", vector(bias[name]))
        self.k_k = vector(0.71 - linear * 0.1)
        self.k_a = vector(torch.full((C,), 1.02))
        self.r_k = nn.Parameter(torch.full((self.heads, HEAD), -0.04))
        self.receptance, self.key, self.value, self.output = (Linear(C, C) for _ in range(4))
        nn.init.orthogonal_(self.receptance.weight)
        nn.init.orthogonal_(self.key.weight, 0.1)
        nn.init.orthogonal_(self.value.weight)
        nn.init.zeros_(self.output.weight)
        self.ln_x = nn.GroupNorm(self.heads, C, eps=64e-5)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / L) ** 0.7)

    def lora(self, name, x, activation=lambda x: x):
        down, up = (getattr(self, name + n).to(x.dtype) for n in "12")
        return activation(x @ down) @ up

    def forward(self, x, v_first, state=None):
        B, T, C = x.shape
        dx = shift(x, state and state["shift"]) - x
        xr, xw, xk, xv, xa, xg = (x + dx * getattr(self, "x_" + n).to(x.dtype) for n in "rwkvag")

        def heads(y):
            return y.view(B, T, self.heads, HEAD)

        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        w = (self.w0 + self.lora("w", xw, torch.tanh)).to(x.dtype)
        a = torch.sigmoid(self.a0 + self.lora("a", xa))
        g = self.lora("g", xg, torch.sigmoid)
        if self.first:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + self.lora("v", xv)).to(x.dtype)
        kk = F.normalize(heads(k * self.k_k), dim=-1)
        k = (k * (1 + (a - 1) * self.k_a)).to(x.dtype)
        inputs = [heads(y) for y in (r, w, k, v)] + [(-kk).to(x.dtype), (kk * heads(a)).to(x.dtype)]
        if state is None:
            y = wkv7(*inputs)
        else:
            y, state["wkv"] = wkv7_loop(*inputs, state["wkv"])
            state["shift"] = x[:, -1]
        norm = self.ln_x
        y = F.group_norm(y.reshape(B * T, C).float(), self.heads, norm.weight, norm.bias, norm.eps).view(B, T, C)
        r, k, v = (heads(z).float() for z in (r, k, v))
        y = y + ((r * k * self.r_k).sum(-1, keepdim=True) * v).view(B, T, C)
        return self.output(y.to(x.dtype) * g), v_first


class ChannelMix(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        C = config.dim
        self.x_k = vector(1 - (torch.arange(C) / C) ** ((1 - layer / config.layers) ** 4))
        self.key, self.value = Linear(C, 4 * C), Linear(4 * C, C)
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.value.weight)

    def forward(self, x, state=None):
        k = x + (shift(x, state and state["ffn_shift"]) - x) * self.x_k.to(x.dtype)
        if state is not None:
            state["ffn_shift"] = x[:, -1]
        return self.value(torch.relu(self.key(k)) ** 2)


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.first = layer == 0
        if self.first:
            self.ln0 = LayerNorm(config.dim)
        self.ln1, self.ln2 = LayerNorm(config.dim), LayerNorm(config.dim)
        self.att, self.ffn = TimeMix(config, layer), ChannelMix(config, layer)

    def forward(self, x, v_first, state=None):
        if self.first:
            x = self.ln0(x)
        y, v_first = self.att(self.ln1(x), v_first, state)
        x = x + y
        return x + self.ffn(self.ln2(x), state), v_first


class RWKV7(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.emb = nn.Embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.layers))
        self.ln_out = LayerNorm(config.dim)
        self.head = Linear(config.dim, config.vocab)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        nn.init.orthogonal_(self.head.weight, 0.5 * math.sqrt(config.vocab / config.dim))

    def forward(self, ids, dtype=torch.float32, state=None):
        """Hidden vectors after ln_out; `state` (from new_state) is updated in place."""
        x, v_first = self.emb(ids).to(dtype), None
        for i, block in enumerate(self.blocks):
            x, v_first = block(x, v_first, state and state[i])
        return self.ln_out(x)

    def new_state(self, batch, device="cpu", dtype=torch.float32):
        C, H = self.config.dim, self.config.dim // HEAD
        return [
            {
                "shift": torch.zeros(batch, C, device=device, dtype=dtype),
                "wkv": torch.zeros(batch, H, HEAD, HEAD, device=device),
                "ffn_shift": torch.zeros(batch, C, device=device, dtype=dtype),
            }
            for _ in range(self.config.layers)
        ]


def vector(x):
    return nn.Parameter(x.reshape(1, 1, -1).clone())


def optimizer_groups(model, weight_decay):
    """The official grouping: decay on matrices named .weight, a doubled rate for att.w0."""
    fast, decayed, rest = [], [], []
    for name, p in model.named_parameters():
        if "att.w0" in name:
            fast.append(p)
        elif p.squeeze().ndim >= 2 and ".weight" in name:
            decayed.append(p)
        else:
            rest.append(p)
    return [
        {"params": decayed, "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": rest, "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": fast, "weight_decay": 0.0, "lr_scale": 2.0},
    ]
