"""The tables of docs/quantization.md: a model at every type, beside llama.cpp, and how sensitive its tensors are.

  quantization.py MODEL.safetensors VOCABULARY [--binary target/release/web-rwkv] [--llama PYTHON] [--only TABLE]

The texts are hand-written mails of the embedded model with questions and answers, each from a zero state; importance
is measured on the generated mails of new kinds. PYTHON is an interpreter that has llama-cpp-python.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from witness_models import decoded

ROOT = Path(__file__).parents[1]
EVAL = ROOT / "models/rwkv7-mail/eval"
TYPES = "q8_0 q6_k q5_k_m q5_1 q5_0 q4_mix q4_k_m q4_1 q4_0 iq4_nl iq4_xs q3_k_m q2_k".split()
GROUPS = "emb att.receptance att.key att.value att.output ffn.key ffn.value head".split()


def texts(name: str, folder: Path, mails: int) -> list[str]:
    """Files with what the model reads of the first mails of a set: the mail, then some questions with their answers."""
    files = []
    for line in (EVAL / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:mails]:
        row = json.loads(line)
        text = f"User: {row['email'].strip()}\n\n"
        for field, description in list(row["schema"].items())[:4]:
            text += f"{field}: {description}\n\nAssistant: {row['gold'][field]}\n\nUser: "
        files.append(folder / f"{name}-{len(files)}.txt")
        files[-1].write_text(text.removesuffix("User: "), encoding="utf-8")
    return [str(f) for f in files]


class Lab:
    def __init__(self, binary: str, model: str, vocab: str, folder: Path, mails: int) -> None:
        self.binary, self.folder, self.values = binary, folder, {}
        self.source = str(folder / "source.gguf")
        self.run("convert", model, self.source, "--vocab", vocab)
        self.judged, self.read = (
            texts("hand-written", folder, mails),
            texts("generated-new-kinds", folder, 60),
        )

    def run(self, *args: str) -> list[dict]:
        done = subprocess.run([self.binary, *args, "--json"], stdout=subprocess.PIPE, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def errors(self, paths: list[str]) -> list[float]:
        """Of each file the squared error of its blocks beside the squares of the weights; the head is Q6_K in most."""
        if not self.values:
            matrices = decoded(self.source).items()
            self.values = {k: x for k, x in matrices if k.endswith(".weight") and x.ndim == 2 and k != "head.weight"}
        squares = sum(float(np.square(x, dtype=np.float64).sum()) for x in self.values.values())

        def error(path: str) -> float:
            found = decoded(path)
            return sum(float(np.square(found[k] - x, dtype=np.float64).sum()) for k, x in self.values.items())

        return [error(path) / squares for path in paths]

    def compare(self, paths: list[str]) -> list[dict]:
        found = self.run("compare", self.source, *paths, "--text", *self.judged)
        for told in found:
            told["bytes"] = Path(told["b"]).stat().st_size
            Path(told["b"]).unlink()
        return found

    def quantized(self, name: str, *args: str) -> str:
        path = str(self.folder / name)
        self.run("quantize", self.source, path, *args)
        return path

    def by_llama(self, python: str, name: str) -> str:
        path = str(self.folder / "llama.gguf")
        command = [python, str(ROOT / "tools/llama_quantize.py"), self.source, path, name]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return path


def cells(found: dict) -> list[str]:
    size, kl, top = found["bytes"] / 2**20, found["kl_mean"], found["top1_agreement"]
    return [
        f"{size:.1f}",
        f"{kl:.2e}",
        f"{found['kl_99']:.2e}",
        f"{100 * top:.2f} %",
        f"{found['perplexity_b']:.3f}",
    ]


def row(*columns: str) -> None:
    print("|", " | ".join(columns), "|", flush=True)


def types(lab: Lab, llama: str | None) -> None:
    columns = ["error", "MiB", "KL mean", "KL 99 %", "top-1", "perplexity"]
    row("type", "by", *columns)
    row(*["---"] * (2 + len(columns)))
    for name in TYPES:
        makers = ["web-rwkv", "web-rwkv --imatrix"]
        paths = [lab.quantized("plain.gguf", "--type", name)]
        paths.append(lab.quantized("importance.gguf", "--type", name, "--imatrix", *lab.read))
        if llama and name != "q4_mix":
            makers.append("llama-quantize")
            paths.append(lab.by_llama(llama, name))
        errors = lab.errors(paths)
        for maker, error, found in zip(makers, errors, lab.compare(paths), strict=True):
            row(name, maker, f"{error:.3e}", *cells(found))


def groups(lab: Lab) -> None:
    kinds = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]
    row("only these tensors", "M weights", *kinds)
    row(*["---"] * (2 + len(kinds)))
    whole = Path(lab.quantized("f16.gguf", "--type", "f16")).stat().st_size
    for group in GROUPS:
        options = [("--type", "f16", "--tensor", f"{group}={kind}") for kind in kinds]
        found = lab.compare(
            [lab.quantized(f"{kind}.gguf", *o) for kind, o in zip(kinds, options, strict=True)]
        )
        # From f16 to q2_k a weight loses 16 − 84 · 8 / 256 bits.
        weights = (whole - found[0]["bytes"]) * 8 / (16 - 84 * 8 / 256)
        row(group, f"{weights / 1e6:.2f}", *[f"{f['kl_mean']:.2e}" for f in found])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("vocabulary")
    parser.add_argument("--binary", default=str(ROOT / "target/release/web-rwkv"))
    parser.add_argument("--llama", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--mails", type=int, default=20, help="so many are judged on")
    parser.add_argument("--only", choices=["types", "groups"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(args.binary, args.model, args.vocabulary, Path(folder), args.mails)
        if args.only != "groups":
            types(lab, args.llama)
        if args.only != "types":
            groups(lab)


if __name__ == "__main__":
    main()
