"""A tiny model learns, and its export gives the trainer's logits in the engine."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import web_rwkv_py as wrp
from conftest import EMBEDDED, ROOT

torch = pytest.importorskip("torch", reason="PyTorch is not installed; make training-test installs it")

import torch.nn.functional as F  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

import data  # noqa: E402
import export  # noqa: E402
import mailsets  # noqa: E402
import train  # noqa: E402
import vocabulary  # noqa: E402
from model import RWKV7, Config  # noqa: E402

torch.set_num_threads(1)  # enough for a tiny model, also on a busy machine
sys.path.append(str(ROOT / "tools"))
import reference_forward  # noqa: E402


@pytest.fixture(scope="module")
def trained(vocab: Path) -> tuple[RWKV7, list[float]]:
    """A tiny model after a few steps on mails, and the losses before each of them."""
    torch.manual_seed(0)
    model = RWKV7(Config(layers=2, dim=128))
    optimizer = train.new_optimizer(model, rate=4e-3, decay=0.1)
    losses = []
    for step, (ids, weights) in enumerate(itertools.islice(data.groups(vocab, 257, 4, seed=1), 24)):
        rate = train.learning_rate(4e-3, step / 24, step, warmup=5, decay_from=0.5)
        ids, weights = torch.from_numpy(ids).long(), torch.from_numpy(weights)
        losses.append(train.update(model, optimizer, rate, ids, weights)[0].item())
    return model.eval(), losses


def test_a_few_steps_lower_the_loss(trained: tuple[RWKV7, list[float]]) -> None:
    losses = trained[1]
    assert losses[0] == pytest.approx(np.log(8192), rel=0.05), "an untrained model knows nothing"
    assert np.mean(losses[-4:]) < 0.75 * losses[0], losses


def test_a_state_goes_on_where_it_was_left() -> None:
    torch.manual_seed(0)
    model = RWKV7(Config(layers=2, dim=128, vocab=64))
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)
    ids = torch.randint(0, 64, (2, 32))
    state = model.new_state(2)
    parts = torch.cat([model(ids[:, a:b], state=state) for a, b in ((0, 7), (7, 20), (20, 32))], 1)
    torch.testing.assert_close(model(ids), parts, atol=1e-5, rtol=1e-5)


def test_exports_give_the_trainers_logits(trained: tuple[RWKV7, list[float]], vocab: Path, tmp_path: Path) -> None:
    model = trained[0]
    ids = wrp.Tokenizer(vocab).encode("User: Order ORD-88213 arrives on Friday.\n\norder: its number\n\nAssistant:")

    def logits(of: RWKV7) -> np.ndarray:
        with torch.no_grad():
            return of.head(of(torch.tensor([ids])))[0].numpy()

    exact = RWKV7(model.config)
    exact.load_state_dict({k: x.float() for k, x in export.export(model.state_dict(), vocab, f"{tmp_path}/m").items()})
    expected = logits(exact)
    # Weights in f16 are up to 2^-11 of their size off.
    assert nmse(expected, logits(model)) < 2**-22
    # An independent forward pass, in f64 over the file.
    witness = reference_forward.Model(load_file(tmp_path / "m.safetensors"), np.float64)
    witnessed = np.array([witness.forward(i) for i in ids])
    assert nmse(expected, witnessed) < 1e-12
    for file in ("m.safetensors", "m-f16.gguf"):
        engine = wrp.Model(tmp_path / file)
        found = np.array(engine.run(ids, option=wrp.PyRnnOption.Full)).reshape(len(ids), -1)
        assert nmse(found, expected) < 1e-12
    tokenizer = wrp.Model(tmp_path / "m-f16.gguf").tokenizer
    assert tokenizer.encode("Grüße,\n\n'€1'") == wrp.Tokenizer(vocab).encode("Grüße,\n\n'€1'")


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    return float(((found - expected) ** 2).sum() / (expected**2).sum())


def test_greedy_answers_are_counted(vocab: Path) -> None:
    """A model that foresees the next token, but for the answer "none"."""
    none = wrp.Tokenizer(vocab).encode(" none")[0]

    class Foreseeing:
        def __call__(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            following = torch.cat([ids[:, 1:], ids[:, :1]], 1)
            return F.one_hot(torch.where(following == none, 0, following), 8192).to(dtype)

        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden

    examples = [("It is red.", [("color", "its color", "red"), ("size", "its size", "none"), ("a", "what", "It")])]
    shares = mailsets.teacher_forced(Foreseeing(), wrp.Tokenizer(vocab), examples)
    assert shares == {"exact": pytest.approx(2 / 3), "value": 1.0, "none": 0.0, "n": 3}


def test_the_command_trains_and_goes_on(vocab: Path, tmp_path: Path) -> None:
    sizes = {"layers": 2, "dim": 64, "length": 256, "batch": 1, "workers": 1, "mails": 1, "save-every": 0}

    def run(*args: str) -> str:
        command = [sys.executable, *args]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT / "training", env=env, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    options = [f"--{name}={value}" for name, value in {"out": tmp_path, "vocab": vocab, **sizes}.items()]
    command = ["train.py", *options]
    first, second = run(*command, "--steps", "2"), run(*command, "--steps", "4")
    assert "step 1 " in first
    assert "step 3 " in second
    assert "step 1 " not in second
    assert "saved after 4 steps" in second
    assert "eval hand-written" in second
    run("export.py", str(tmp_path / "model.pth"), str(vocab), str(tmp_path / "tiny"))
    assert wrp.Model(tmp_path / "tiny-f16.gguf").info().num_layer == 2
    assert vocabulary.read(tmp_path / "tiny-f16.gguf") == vocabulary.read(EMBEDDED)
