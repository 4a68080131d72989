"""Measures `web-rwkv` beside llama.cpp: the same files, threads and tokens, in turns, medians of pairs.

usage: bench_llama.py [--pairs N] [--threads N,...] [--python PYTHON] MODEL.gguf...

PYTHON is one that has llama-cpp-python, whose library must be built for this machine; the environment variable
LLAMA_PYTHON says it too. Beside each rate stands the floor: what the memory gives for decoding, what multiply-adds
give for prefill (in f32; with AVX2 and AVX-512 in integers of 16 bits, of 8 with `--fast`). llama.cpp runs with or without its
repacking, whichever reads faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).parent.parent / "target/release/web-rwkv"
PREFILL, DECODE, DOCUMENT, FIELDS, FIELD = 512, 64, 212, 10, 12
MEASURES = "decode,doc-state,field-analysis"


class Llama:
    """llama.cpp through its C interface, in a process of its own."""

    def __init__(self, path: str, threads: int, repack: bool) -> None:
        import ctypes
        import resource

        import llama_cpp

        self.c, self.lib = ctypes, llama_cpp
        self.path, self.threads, self.repack = path, threads, repack
        self.rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.batch = llama_cpp.llama_batch_init(PREFILL, 0, 1)
        before = self.rss()
        self.model = self.load()
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.text = self.context(1, False)
        self.read(self.text, [self.tokens(PREFILL)])
        self.memory = self.rss() - before
        self.document, self.fields = self.context(1, True), self.context(FIELDS, True)

    def load(self):
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = 0, self.repack
        return self.lib.llama_model_load_from_file(self.path.encode(), params)

    def context(self, sequences: int, embeddings: bool):
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 4096, PREFILL, PREFILL
        params.n_threads = params.n_threads_batch = self.threads
        params.n_seq_max, params.embeddings = sequences, embeddings
        return self.lib.llama_init_from_model(self.model, params)

    def tokens(self, n: int) -> list[int]:
        return [1 + i * 7919 % (self.vocab - 1) for i in range(n)]

    def read(self, context, sequences: list[list[int]], position: int = 0) -> None:
        batch, i = self.batch, 0
        for s, tokens in enumerate(sequences):
            for t, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position + t, 1
                batch.seq_id[i][0], batch.logits[i] = s, t + 1 == len(tokens)
                i += 1
        batch.n_tokens = i
        if self.lib.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def seconds(self, context, run) -> float:
        import time

        if context:
            self.lib.llama_memory_clear(self.lib.llama_get_memory(context), True)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def measure(self) -> dict[str, float]:
        decoded = self.tokens(DECODE)

        def decode() -> None:
            for i, token in enumerate(decoded):
                self.read(self.text, [[token]], i)

        def document() -> None:
            self.read(self.document, [self.tokens(DOCUMENT)])
            size = self.lib.llama_state_seq_get_size(self.document, 0)
            self.lib.llama_state_seq_get_data(self.document, (self.c.c_uint8 * size)(), size, 0)

        fields = [self.tokens(FIELD)] * FIELDS
        return {
            "prefill": PREFILL / self.seconds(self.text, lambda: self.read(self.text, [self.tokens(PREFILL)])),
            "decode": DECODE / self.seconds(self.text, decode),
            "doc": 1e3 * self.seconds(self.document, document),
            "fields": 1e3 * self.seconds(self.fields, lambda: self.read(self.fields, fields)),
        }

    def first_token(self) -> dict[str, float]:
        def run() -> None:
            self.model = self.load()
            self.read(self.context(1, False), [[1]])

        return {"first": 1e3 * self.seconds(None, run)}

    def serve(self) -> None:
        """Answers requests until there are no more."""
        for line in sys.stdin:
            request = line.strip()
            answer = {"memory": self.memory / 1e6} if request == "memory" else getattr(self, request)()
            print(json.dumps(answer), flush=True)


class Peer:
    """The process that runs `Llama`."""

    def __init__(self, python: str, path: str, threads: int, repack: bool) -> None:
        line = [python, __file__, "--peer", path, str(threads), str(int(repack))]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("memory")  # it has loaded the model and read a text then, and lets the cores go

    def ask(self, request: str) -> dict[str, float]:
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def best_peer(python: str, path: str, threads: int) -> Peer:
    rates = []
    for repack in (False, True):  # one after the other: idle threads of llama.cpp spin
        peer = Peer(python, path, threads, repack)
        peer.ask("measure")
        rates.append(peer.ask("measure")["prefill"])
        peer.close()
    return Peer(python, path, threads, rates[1] > rates[0])


def ours(path: str, threads: int, only: str, repeats: int = 1, *, fast: bool = False) -> dict:
    line = [COMMAND, "--json", "--device", "cpu", "--threads", str(threads), "--model", path]
    line += ["--fast"] * fast
    line += ["bench", "--repeats", str(repeats), "--lengths", str(PREFILL), "--only", only]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def medians(answer: dict) -> dict[str, float]:
    names = {"prefill": "prefill", "decode": "decode", "doc": "doc", "field": "fields", "load": "first"}
    return {names[name.split()[0]]: row["median"] for name, row in answer["measured"].items()}


def compare(python: str | None, path: str, threads: int, pairs: int) -> None:
    peer = best_peer(python, path, threads) if python else None
    runs: list[tuple[dict, dict, dict]] = []
    for _ in range(pairs):
        answer = ours(path, threads, "prefill")
        one = medians(answer) | {"memory": answer["peak_memory"] / 1e6}  # as llama.cpp's, after a prefill
        one |= medians(ours(path, threads, MEASURES)) | medians(ours(path, threads, "first-token"))
        one["fast"] = medians(ours(path, threads, "prefill", fast=True))["prefill"]
        # Of the same minute, since other guests of a machine take of its memory's rate.
        plain, fast = (ours(path, threads, "peaks", 5, fast=fast) for fast in (False, True))
        peaks = {
            "prefill": plain["arithmetic_gop_s"],
            "fast": fast["arithmetic_gop_s"],
            "decode": plain["bandwidth_gb_s"],
        }
        other = peer.ask("measure") | peer.ask("first_token") | peer.ask("memory") if peer else {}
        runs.append((one, other | {"fast": other["prefill"]} if peer else {}, peaks))
    if peer:
        peer.close()
    head, weights = answer["head_weights"], answer["weights"]
    operations = 2 * (weights - head + head / PREFILL)
    work = {"prefill": operations, "fast": operations, "decode": answer["bytes_per_token"]}
    rows = {
        "prefill": f"prefill {PREFILL} tokens, tok/s",
        "fast": "the same, activations of 8 bits (--fast), tok/s",
        "decode": f"decode {DECODE} tokens, tok/s",
        "doc": f"doc state, {DOCUMENT} tokens, ms",
        "fields": f"field analysis, {FIELDS} of {FIELD} tokens, ms",
        "first": "load to first token, ms",
        "memory": "peak memory, MB",
    }
    for key, name in rows.items():
        us = statistics.median(a[key] for a, _, _ in runs)
        cells = [f"{us:.4g}", "", ""]
        if peer:
            cells[1] = f"{statistics.median(b[key] for _, b, _ in runs):.4g}"
            ratio = statistics.median(a[key] / b[key] for a, b, _ in runs)
            cells[2] = f"{ratio if key in work else 1 / ratio:.2f}"
        floor = ["", ""]
        if key in work:
            floors = [peaks[key] * 1e9 / work[key] for _, _, peaks in runs]
            reached = statistics.median(a[key] / floor for (a, _, _), floor in zip(runs, floors, strict=True))
            floor = [f"{statistics.median(floors):.4g}", f"{100 * reached:.0f} %"]
        print("|", " | ".join([Path(path).stem, str(threads), name, *cells, *floor]), "|", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--peer"]:
        Llama(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1").serve()
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", default=f"{os.cpu_count()},1")
    parser.add_argument("--python", default=os.environ.get("LLAMA_PYTHON"))
    args = parser.parse_args()
    if not args.python:
        print("without llama.cpp: LLAMA_PYTHON does not say where it is")
    for threads in map(int, args.threads.split(",")):
        print()
        print("| model | threads | | web-rwkv | llama.cpp | times faster | floor | reached |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for path in args.models:
            compare(args.python, path, threads, args.pairs)


if __name__ == "__main__":
    main()
