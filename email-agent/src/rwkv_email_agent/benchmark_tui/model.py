"""One interface over this project's engine and over llama.cpp.

`seconds` of a runner is how long its last call took inside the library; T tokens, C channels, V vocabulary.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import web_rwkv_py as wrp
from numpy.typing import NDArray

from ..errors import AgentError

Floats = NDArray[np.float32]
Tokens = str | Sequence[int]
"""A text, or its token ids."""
State = NDArray[np.float32] | NDArray[np.uint8]
_WORKER = Path(__file__).with_name("llama_worker.py")


class CompletionRunner(Protocol):
    """A model with one live state; the names are those of the predecessor's agent."""

    seconds: float

    def load(self) -> None:
        """Opens the file once more and drops it, for the time that takes."""

    def tokenize(self, text: str) -> list[int]: ...

    def tokenize_all(self, texts: Sequence[str]) -> list[list[int]]: ...

    def run(self, tokens: Tokens, token_chunk_size: int = 128) -> Floats:
        """Goes on from the live state; logits `[V]` after the last token."""

    def reset_state(self) -> None: ...

    def back_state_numpy(self) -> State:
        """The live state as an array."""

    def read_document(self, tokens: Tokens) -> tuple[Floats, State]:
        """From a zero state: the hidden vector `[C]` after the last token, and the state as an array."""

    def embed(self, tokens: Tokens, token_chunk_size: int = 128) -> Floats:
        """Hidden vector `[C]` after the last token, from a zero state."""

    def embed_batch(self, sequences: Sequence[Tokens], token_chunk_size: int = 512) -> list[Floats]:
        """`embed` of each sequence, together."""

    def generate(self, prompt: Tokens, max_tokens: int = 64, stop: str = "") -> tuple[str, int]:
        """Goes on from the live state by the likeliest token; the text, and the number of tokens with their end.

        The live state then stands before the last token that was written.
        """

    def close(self) -> None: ...


class RWKVCompletionRunner:
    """This project's engine."""

    def __init__(self, path: str | os.PathLike[str], device: str = "auto", threads: int | None = None) -> None:
        self._path, self._device, self._threads = path, device, threads
        self.seconds = 0.0
        self.model = self._open()

    def _open(self) -> wrp.Model:
        start = time.perf_counter()
        model = wrp.Model(self._path, device=self._device, threads=self._threads)
        self.seconds = time.perf_counter() - start
        return model

    def load(self) -> None:
        self._open().close()

    def tokenize(self, text: str) -> list[int]:
        return self.tokenize_all([text])[0]

    def tokenize_all(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self.model.tokenizer
        start = time.perf_counter()
        tokens = [tokenizer.encode(text) for text in texts]
        self.seconds = time.perf_counter() - start
        return tokens

    def run(self, tokens: Tokens, token_chunk_size: int = 128) -> Floats:
        start = time.perf_counter()
        logits = self.model.run(tokens, token_chunk_size)
        self.seconds = time.perf_counter() - start
        return np.asarray(logits, np.float32)

    def reset_state(self) -> None:
        self.model.clear_state()

    def back_state(self) -> wrp.State:
        """The live state as a value that can be loaded again."""
        return self.model.back_state()

    def back_state_numpy(self) -> Floats:
        start = time.perf_counter()
        state = self.model.back_state_numpy()
        self.seconds = time.perf_counter() - start
        return state

    def read_document(self, tokens: Tokens) -> tuple[Floats, Floats]:
        self.model.clear_state()
        start = time.perf_counter()
        vector = self.model.run(tokens, 512, wrp.PyRnnOption.EmbedLast)
        state = self.model.back_state_numpy()
        self.seconds = time.perf_counter() - start
        return np.asarray(vector, np.float32), state

    def embed(self, tokens: Tokens, token_chunk_size: int = 128) -> Floats:
        start = time.perf_counter()
        vector = self.model.embed(tokens, token_chunk_size)
        self.seconds = time.perf_counter() - start
        return vector

    def embed_batch(self, sequences: Sequence[Tokens], token_chunk_size: int = 512) -> list[Floats]:
        start = time.perf_counter()
        vectors = self.model.embed_batch(sequences, token_chunk_size)
        self.seconds = time.perf_counter() - start
        return vectors

    def generate(self, prompt: Tokens, max_tokens: int = 64, stop: str = "") -> tuple[str, int]:
        live = self.model.back_state()
        start = time.perf_counter()
        writing = self.model.stream(prompt, max_tokens, temperature=0.0, stop=stop or None, state=live)
        for _ in writing:
            pass
        seconds = time.perf_counter() - start
        ids = self.tokenize(prompt) if isinstance(prompt, str) else prompt
        self.model.load_state(live)
        if read := [*ids, *writing.tokens[:-1]]:
            self.model.run(read, 512)
        self.seconds = seconds
        return writing.text, len(writing.tokens)

    def extract(self, document: str, schema: Mapping[str, str]) -> wrp.Extraction:
        """Values, their places and similarities, and what each step took."""
        return self.model.extract(document, schema)

    def close(self) -> None:
        self.model.close()


def llama_is_there() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


class LlamaCompletionRunner:
    """llama.cpp on the CPU, in a process of its own; `pooling` is what `embed` and `read_document` give back."""

    def __init__(
        self, path: str | os.PathLike[str], threads: int | None = None, pooling: Literal["last", "mean"] = "last"
    ) -> None:
        if not llama_is_there():
            raise AgentError("llama.cpp: expected llama-cpp-python to be installed (the extra `llama`)")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        command = [sys.executable, str(_WORKER), os.fspath(path), str(threads or os.cpu_count() or 1), pooling]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, encoding="ascii"
        )
        try:
            self.seconds: float = self._answer()["seconds"]
        except AgentError:
            self.close()
            raise

    def _call(self, name: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin, "it is a pipe"
        if self._process.stdin.closed:
            raise AgentError("llama.cpp: expected an open model, found a closed one")
        with contextlib.suppress(OSError):  # the process may be gone; `_answer` tells why
            self._process.stdin.write(json.dumps({"call": name, **arguments}) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        self.seconds = answer["seconds"]
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout, "it is a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise AgentError(f"llama.cpp: {self._end()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AgentError(f"llama.cpp: {answer['error']}")
        return answer

    def _end(self) -> str:
        code = self._process.wait()
        how = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {said}" if said else how

    def load(self) -> None:
        self._call("load")

    def tokenize(self, text: str) -> list[int]:
        return self.tokenize_all([text])[0]

    def tokenize_all(self, texts: Sequence[str]) -> list[list[int]]:
        tokens: list[list[int]] = self._call("tokenize", texts=list(texts))["tokens"]
        return tokens

    def _ids(self, tokens: Tokens) -> list[int]:
        return self.tokenize(tokens) if isinstance(tokens, str) else list(tokens)

    def run(self, tokens: Tokens, token_chunk_size: int = 128) -> Floats:
        return _floats(self._call("run", tokens=self._ids(tokens))["logits"])

    def reset_state(self) -> None:
        self._call("reset_state")

    def back_state(self) -> NDArray[np.uint8]:
        """The live state, in llama.cpp's own bytes."""
        return np.frombuffer(base64.b64decode(self._call("back_state")["state"]), np.uint8)

    def back_state_numpy(self) -> NDArray[np.uint8]:
        return self.back_state()

    def read_document(self, tokens: Tokens) -> tuple[Floats, NDArray[np.uint8]]:
        answer = self._call("document", tokens=self._ids(tokens))
        return _floats(answer["vector"]), np.frombuffer(base64.b64decode(answer["state"]), np.uint8)

    def embed(self, tokens: Tokens, token_chunk_size: int = 128) -> Floats:
        return self.read_document(tokens)[0]

    def embed_batch(self, sequences: Sequence[Tokens], token_chunk_size: int = 512) -> list[Floats]:
        answer = self._call("embed_batch", sequences=[self._ids(tokens) for tokens in sequences])
        return [_floats(vector) for vector in answer["vectors"]]

    def generate(self, prompt: Tokens, max_tokens: int = 64, stop: str = "") -> tuple[str, int]:
        answer = self._call("generate", tokens=self._ids(prompt), max_tokens=max_tokens, stop=stop)
        return answer["text"], len(answer["tokens"])

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin:
            with contextlib.suppress(OSError):  # it may have ended before it read all
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()


def _floats(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32, copy=False)
