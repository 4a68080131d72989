"""The speeds of an extraction, this project's engine beside llama.cpp, like for like.

All backends get the same token ids and threads; each step runs once unmeasured, then `repeats` times, the backends
taking turns. A figure is the median.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import web_rwkv_py as wrp

from ..errors import AgentError
from .model import CompletionRunner, LlamaCompletionRunner, RWKVCompletionRunner

_ANSWER_TOKENS = 64
_STOP = "\n\n"


@dataclass(frozen=True)
class Backend:
    """Something that runs the model."""

    id: str
    title: str
    open: Callable[[Path, int], CompletionRunner]


def _on_gpu(path: Path, threads: int) -> CompletionRunner:
    for device in wrp.devices():
        if device.kind != "software":
            return RWKVCompletionRunner(path, device.device, threads)
    raise AgentError("device: expected a GPU, found none")


BACKENDS = (
    Backend("cpu", "ours, CPU", lambda path, threads: RWKVCompletionRunner(path, "cpu", threads)),
    Backend("gpu", "ours, GPU", _on_gpu),
    Backend("llama", "llama.cpp, CPU", lambda path, threads: LlamaCompletionRunner(path, threads)),
)
PEER = "llama"
"""What ratios are taken to."""


@dataclass(frozen=True)
class Step:
    """Something that is measured."""

    id: str
    title: str
    unit: Literal["ms", "tok/s"]
    measured: str
    in_llama: str


STEPS = (
    Step("load", "model load", "ms", "the file, in the page cache, to a model", "without its contexts"),
    Step("tokenize", "tokenize", "ms", "mail and fields to token ids", "llama_tokenize for each"),
    Step(
        "generation",
        "generation",
        "tok/s",
        f"the fields as JSON from the doc state, greedy, at most {_ANSWER_TOKENS} tokens",
        "llama_decode for each token, argmax by numpy",
    ),
    Step(
        "doc_state",
        "doc state",
        "ms",
        "the mail to its last hidden vector, and the state as an array",
        "pooling LAST, and for want of an array the bytes of llama_state_seq_get_data",
    ),
    Step(
        "field_analysis",
        "field analysis",
        "ms",
        "all fields in one batch to a hidden vector each",
        "one sequence a field, pooling LAST; it computes the head, too",
    ),
)


@dataclass
class Measurement:
    """What became of one backend."""

    title: str
    error: str | None = None
    """Why it did not run, or stopped."""
    same_tokens: bool | None = None
    """Whether its own tokenizer gives the ids that all backends were fed."""
    answer: str = ""
    """What it wrote in the step `generation`."""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Step to one figure a round, in the step's unit."""

    def median(self, step: str) -> float | None:
        """The figure of a step, once there is one."""
        found = self.samples.get(step)
        return statistics.median(found) if found else None


@dataclass
class Run:
    """A run under way or done."""

    model: str
    mail: str
    threads: int
    repeats: int
    document_tokens: int = 0
    fields: int = 0
    field_tokens: int = 0
    rounds: int = 0
    """Rounds that were measured so far."""
    time: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    machine: str = field(default_factory=lambda: f"{platform.machine()}, {os.cpu_count()} cores")
    backends: dict[str, Measurement] = field(default_factory=dict)

    def ratio(self, step: Step, backend: str) -> float | None:
        """How many times as fast as llama.cpp: above 1 is faster."""
        ours, theirs = (b and b.median(step.id) for b in (self.backends.get(backend), self.backends.get(PEER)))
        if not ours or not theirs:
            return None
        return ours / theirs if step.unit == "tok/s" else theirs / ours

    def to_json(self) -> dict[str, Any]:
        """All that was measured, with what was measured in words."""
        told = asdict(self)
        for name, measurement in self.backends.items():
            figures: dict[str, dict[str, Any]] = {}
            for step in STEPS:
                samples = measurement.samples.get(step.id)
                if samples:
                    median = statistics.median(samples)
                    figures[step.id] = {"unit": step.unit, "median": median, "min": min(samples), "max": max(samples)}
                    figures[step.id]["ratio_to_llama"] = self.ratio(step, name)
            told["backends"][name]["figures"] = figures
            del told["backends"][name]["samples"]
        told["measured"] = {step.id: {"what": step.measured, "in_llama": step.in_llama} for step in STEPS}
        return told


def measure(
    model: Path,
    mail: str,
    document: str,
    schema: Mapping[str, str],
    *,
    threads: int,
    repeats: int,
    told: Callable[[Run], object] = lambda run: None,
    stopped: Callable[[], bool] = lambda: False,
    backends: tuple[Backend, ...] = BACKENDS,
) -> Run:
    """Measures all backends that are there; `told` hears of the run as it grows, and `stopped` may end it."""
    run = Run(str(model), mail, threads, repeats, fields=len(schema))
    runners: dict[str, CompletionRunner] = {}
    try:
        for backend in backends:
            run.backends[backend.id] = Measurement(backend.title)
            with _telling(run.backends[backend.id]):
                runners[backend.id] = backend.open(model, threads)
            told(run)
        job = _Job(document, schema)
        for i in range(repeats + 1):
            for step in STEPS:
                # Each backend is first as often as it is last.
                for backend_id in list(runners)[:: 1 if i % 2 else -1] if i else list(runners):
                    if stopped():
                        return run
                    measurement = run.backends[backend_id]
                    with _telling(measurement):
                        figure = job.take(step.id, runners[backend_id], measurement)
                        if i:
                            measurement.samples.setdefault(step.id, []).append(figure)
                    if measurement.error:
                        runners.pop(backend_id).close()
                run.document_tokens = len(job.document_tokens)
                run.field_tokens = sum(map(len, job.field_tokens))
                run.rounds = i if step is STEPS[-1] else run.rounds
                told(run)
        return run
    finally:
        for runner in runners.values():
            runner.close()


@contextmanager
def _telling(measurement: Measurement) -> Iterator[None]:
    """Writes the error of a backend down, so that the others go on."""
    try:
        yield
    except (AgentError, wrp.RwkvError, OSError) as error:
        measurement.error = " ".join(str(error).split())


class _Job:
    """The texts of one run, and the ids of the first backend that read them."""

    def __init__(self, document: str, schema: Mapping[str, str]) -> None:
        asked = json.dumps(dict(schema), ensure_ascii=False)
        self._texts = [
            f"User: {document.strip()}\n\n",
            f"Extract as JSON: {asked}\n\nAssistant:",
            *(f"{name}: {description}" for name, description in schema.items()),
        ]
        self._tokens: list[list[int]] = []

    @property
    def document_tokens(self) -> list[int]:
        return self._tokens[0] if self._tokens else []

    @property
    def field_tokens(self) -> list[list[int]]:
        return self._tokens[2:]

    def take(self, step: str, runner: CompletionRunner, measurement: Measurement) -> float:
        """Runs a step; its figure in the step's unit."""
        if step == "load":
            runner.load()
        elif step == "tokenize":
            tokens = runner.tokenize_all(self._texts)
            self._tokens = self._tokens or tokens
            measurement.same_tokens = tokens == self._tokens
        elif step == "doc_state":
            runner.read_document(self.document_tokens)
        elif step == "field_analysis":
            runner.embed_batch(self.field_tokens)
        else:
            # All but the last token are read before the clock starts: each step then reads one and writes one.
            *question, last = self._tokens[1]
            runner.reset_state()
            runner.run([*self.document_tokens, *question])
            measurement.answer, written = runner.generate([last], _ANSWER_TOKENS, _STOP)
            return written / runner.seconds
        return runner.seconds * 1e3
