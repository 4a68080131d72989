"""Trains the mail model. The learning rate follows the clock: warm-up, plateau, decay to near zero when --seconds
are over. A checkpoint is kept on disk; starting again with the same --out goes on from it.

  train.py --out DIR --vocab data/vocab.txt --seconds 980
"""

import argparse
import itertools
import json
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from web_rwkv_py import Tokenizer

import mailsets
from data import batches
from model import RWKV7, Config, optimizer_groups

HAND_WRITTEN = Path(__file__).parents[1] / "models/rwkv7-mail/eval/hand-written.jsonl"


def token_loss(hidden, head, targets, weights):
    """The loss by the weights of the tokens, and that of the answers alone."""
    logits = F.linear(hidden, head.to(hidden.dtype)).flatten(0, 1)
    losses = F.cross_entropy(logits.float(), targets.flatten(), reduction="none")
    weights = weights.flatten()
    answers = (weights == 1).float()
    return (losses * weights).sum() / weights.sum(), (losses * answers).sum() / answers.sum().clamp(min=1)


def learning_rate(peak: float, progress: float, step: int, warmup: int, decay_from: float) -> float:
    """`progress` goes from 0 to 1."""
    scale = min(1.0, (step + 1) / warmup)
    if progress > decay_from:
        scale *= 0.01 + 0.99 * (1 - math.sqrt((progress - decay_from) / (1 - decay_from)))
    return peak * scale


def new_optimizer(model: RWKV7, rate: float, decay: float) -> torch.optim.Optimizer:
    groups, fused = optimizer_groups(model, decay), model.emb.weight.is_cuda
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), eps=1e-18, fused=fused)


def update(model, optimizer, rate, ids, weights, dtype=torch.float32, loss_of=token_loss):
    """One step on ids and weights [B, T + 1]: the two losses before it, and the norm of the gradient."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    hidden = model(ids[:, :-1].contiguous(), dtype)
    loss, answer_loss = loss_of(hidden, model.head.weight, ids[:, 1:], weights[:, 1:].float())
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, answer_loss, norm


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab", type=Path, default=Path("data/vocab.txt"))
    parser.add_argument("--seconds", type=float, default=980)
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many, if time is not over before")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=150, help="steps")
    parser.add_argument("--decay-from", type=float, default=0.5, help="share of the time")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=150, help="seconds")
    parser.add_argument(
        "--mails", type=int, default=250, help="generated mails of each set that is answered at the end"
    )
    return parser.parse_args()


class Checkpoint:
    """What a run goes on from: weights, the optimizer's state, steps and seconds so far."""

    def __init__(self, path: Path, model: RWKV7, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.model, self.optimizer = path, model, optimizer
        self.saved = time.time()

    def load(self) -> tuple[int, float]:
        if not self.path.exists():
            return 0, 0.0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"], state["elapsed"]

    def save(self, step: int, elapsed: float) -> None:
        """Never leaves half a file, however it ends."""
        new = self.path.with_suffix(".new")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "step": step, "elapsed": elapsed}, new)
        os.replace(new, self.path)
        self.saved = time.time()


def report(model: RWKV7, vocab: Path, device: str, mails: int) -> None:
    sets = {**mailsets.generated_sets(mails), "hand-written": mailsets.read_set(HAND_WRITTEN)}
    for name, examples in sets.items():
        shares = mailsets.teacher_forced(model, Tokenizer(vocab), examples, device)
        print("eval", name, json.dumps({k: round(v, 4) for k, v in shares.items()}), flush=True)


def main() -> None:
    args = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype, loss_of = torch.float32, token_loss
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    model = RWKV7(Config(args.layers, args.dim)).to(device)
    optimizer = new_optimizer(model, args.rate, args.decay)
    checkpoint = Checkpoint(args.out / "checkpoint.pth", model, optimizer)
    first, elapsed = checkpoint.load()
    stream = batches(args.vocab, args.length + 1, args.batch, args.workers, args.seed + first)
    if device == "cuda":
        dtype, loss_of = torch.bfloat16, torch.compile(token_loss)
        torch.set_float32_matmul_precision("high")
        for block in model.blocks:
            block.compile()

    step, shown = first, first
    started = since = time.time()
    for step in itertools.count(first + 1):
        now = elapsed + time.time() - started
        if now >= args.seconds or step > args.steps:
            step -= 1
            break
        ids, weights = (torch.from_numpy(x).to(device, non_blocking=True) for x in next(stream))
        rate = learning_rate(args.rate, now / args.seconds, step - 1, args.warmup, args.decay_from)
        loss, answers, norm = update(model, optimizer, rate, ids.long(), weights, dtype, loss_of)
        if step % 50 == 0 or step - first in (1, 2, 10):
            losses = f"loss {loss.item():.4f} answers {answers.item():.4f} norm {norm.item():.2f}"
            speed = (step - shown) * args.batch * args.length / (time.time() - since)
            shown, since = step, time.time()
            print(f"step {step} t {now:.0f} {losses} lr {rate:.2e} {speed / 1e3:.0f}k tok/s", flush=True)
        if time.time() - checkpoint.saved > args.save_every:
            checkpoint.save(step, now)
    torch.save({k: v.detach().half().cpu() for k, v in model.state_dict().items()}, args.out / "model.pth")
    print(f"saved after {step} steps, {step * args.batch * args.length / 1e6:.0f}M tokens", flush=True)
    report(model.eval(), args.vocab, device, args.mails)


if __name__ == "__main__":
    main()
