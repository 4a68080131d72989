"""llama.cpp in a process of its own, so that a crash in it is a message here.

Run by `model.LlamaCompletionRunner`, it answers JSON lines on standard input with JSON lines on standard output:
`{"call": name, …}` with `{"seconds": s, …}`, which is the time inside this process, or with `{"error": text}`.
Tokens go in as ids; vectors come out as base64 of little-endian f32, a state as base64 of llama.cpp's bytes.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

_CHUNK = 512
# Sequences of one pass; llama.cpp has a limit of its own.
_TOGETHER = 64
# A recurrent model's memory does not grow with its context, so no document need be too long.
_CONTEXT = 1 << 20


class Context:
    """A llama.cpp context over `sequences` sequences, for logits or for pooled embeddings."""

    def __init__(self, model: Any, threads: int, pooling: int | None = None, sequences: int = 1) -> None:
        p = llama.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = _CONTEXT, _CHUNK, _CHUNK, sequences
        p.n_threads = p.n_threads_batch = threads
        if pooling is not None:
            # RWKV files name no pooling; without one llama.cpp gives a vector for each token.
            p.embeddings, p.pooling_type = True, pooling
        self.pooled = pooling is not None
        self.sequences = sequences
        self.position = 0
        self.width = llama.llama_model_n_embd(model)
        self._context = llama.llama_init_from_model(model, p)
        if not self._context:
            raise RuntimeError("llama_init_from_model failed")
        self._batch = llama.llama_batch_init(_CHUNK, 0, 1)

    def clear(self) -> None:
        """Forgets all sequences."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        self.position = 0

    def decode(self, sequences: Sequence[Sequence[int]]) -> None:
        """One pass: `sequences[i]` goes on sequence i, from the position that all share."""
        b, n = self._batch, 0
        for i, tokens in enumerate(sequences):
            for at, token in enumerate(tokens):
                b.token[n], b.pos[n], b.n_seq_id[n] = token, self.position + at, 1
                b.seq_id[n][0], b.logits[n] = i, self.pooled or at + 1 == len(tokens)
                n += 1
        b.n_tokens = n
        if code := llama.llama_decode(self._context, b):
            raise RuntimeError(f"llama_decode failed with {code}")
        llama.llama_synchronize(self._context)

    def read(self, tokens: Sequence[int]) -> None:
        """Goes on with sequence 0, in chunks."""
        for at in range(0, len(tokens), _CHUNK):
            chunk = tokens[at : at + _CHUNK]
            self.decode([chunk])
            self.position += len(chunk)

    def vector(self, sequence: int = 0) -> bytes:
        """The pooled vector of a sequence, f32 [C]."""
        return ctypes.string_at(llama.llama_get_embeddings_seq(self._context, sequence), 4 * self.width)

    def logits(self, vocabulary: int) -> Any:
        """Those after the last token, f32 [V]; they live until the next pass."""
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, -1), (vocabulary,))

    def state(self) -> memoryview:
        """llama.cpp's bytes of the state of sequence 0."""
        size = llama.llama_state_seq_get_size(self._context, 0)
        data = np.empty(size, np.uint8)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if llama.llama_state_seq_get_data(self._context, pointer, size, 0) != size:
            raise RuntimeError("llama_state_seq_get_data failed")
        return data.data

    def free(self) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)


class Worker:
    """The calls that the other side makes; each returns what it answers, with `seconds` where time counts."""

    def __init__(self, path: str, threads: int, pooling: str) -> None:
        self._path, self._threads = path, threads
        self._pooling = {"last": llama.LLAMA_POOLING_TYPE_LAST, "mean": llama.LLAMA_POOLING_TYPE_MEAN}[pooling]
        self._model, self.seconds = self._open()
        self._vocabulary = llama.llama_model_get_vocab(self._model)
        self._size = llama.llama_vocab_n_tokens(self._vocabulary)
        self._live = Context(self._model, threads)
        self._document = Context(self._model, threads, self._pooling)
        self._fields: Context | None = None

    def _open(self) -> tuple[Any, float]:
        p = llama.llama_model_default_params()
        # No repacked copies of the weights: with AMX they crash in prefill, and without them prefill is faster.
        p.n_gpu_layers, p.use_extra_bufts = 0, False
        start = time.perf_counter()
        model = llama.llama_model_load_from_file(self._path.encode(), p)
        seconds = time.perf_counter() - start
        if not model:
            raise RuntimeError(f"{self._path}: llama.cpp cannot load it")
        return model, seconds

    def load(self) -> dict[str, Any]:
        model, seconds = self._open()
        llama.llama_model_free(model)
        return {"seconds": seconds}

    def tokenize(self, texts: Sequence[str]) -> dict[str, Any]:
        start = time.perf_counter()
        tokens = [self._tokens(text.encode()) for text in texts]
        return {"seconds": time.perf_counter() - start, "tokens": tokens}

    def _tokens(self, text: bytes) -> list[int]:
        most = len(text) + 1
        ids = (llama.llama_token * most)()
        n = llama.llama_tokenize(self._vocabulary, text, len(text), ids, most, False, False)
        if n < 0:
            raise RuntimeError(f"llama_tokenize failed with {n}")
        return list(ids[:n])

    def document(self, tokens: Sequence[int]) -> dict[str, Any]:
        """From a zero state to the pooled vector and the state."""
        self._document.clear()
        start = time.perf_counter()
        self._read_pooled(self._document, tokens)
        vector, state = self._document.vector(), self._document.state()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "vector": _text(vector), "state": _text(state)}

    def embed_batch(self, sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Each from a zero state; as many together as a pass holds, and a longer one alone, in chunks."""
        if not all(sequences):
            raise RuntimeError("expected texts of 1 token or more")
        together = min(len(sequences), _TOGETHER)
        if sequences and (self._fields is None or self._fields.sequences < together):
            if self._fields:
                self._fields.free()
            self._fields = Context(self._model, self._threads, self._pooling, together)
        start = time.perf_counter()
        vectors: list[bytes] = []
        todo = list(sequences)
        while todo:
            assert self._fields, "there is one where there are sequences"
            self._fields.clear()
            some, room = [todo.pop(0)], _CHUNK
            room -= len(some[0])
            while todo and len(todo[0]) <= room and len(some) < together:
                room -= len(todo[0])
                some.append(todo.pop(0))
            if len(some) == 1:
                self._read_pooled(self._fields, some[0])
            else:
                self._fields.decode(some)
            vectors += [self._fields.vector(i) for i in range(len(some))]
        return {"seconds": time.perf_counter() - start, "vectors": [_text(v) for v in vectors]}

    def _read_pooled(self, context: Context, tokens: Sequence[int]) -> None:
        if len(tokens) > _CHUNK and self._pooling == llama.LLAMA_POOLING_TYPE_MEAN:
            raise RuntimeError(f"expected at most {_CHUNK} tokens to take the mean of, found {len(tokens)}")
        context.read(tokens)

    def reset_state(self) -> dict[str, Any]:
        self._live.clear()
        return {"seconds": 0.0}

    def run(self, tokens: Sequence[int]) -> dict[str, Any]:
        start = time.perf_counter()
        self._live.read(tokens)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "logits": _text(self._live.logits(self._size).tobytes())}

    def back_state(self) -> dict[str, Any]:
        start = time.perf_counter()
        state = self._live.state()
        return {"seconds": time.perf_counter() - start, "state": _text(state)}

    def generate(self, tokens: Sequence[int], max_tokens: int, stop: str) -> dict[str, Any]:
        """Goes on from the live state, by the likeliest token."""
        text, written = b"", list[int]()
        start = time.perf_counter()
        while len(written) < max_tokens:
            self._live.read(tokens)
            token = int(self._live.logits(self._size).argmax())
            tokens = [token]
            written.append(token)
            # Token 0 ends a document.
            if token == 0 or (stop and stop.encode() in (text := text + self._bytes(token))):
                break
        seconds = time.perf_counter() - start
        text = text.split(stop.encode())[0] if stop else b"".join(map(self._bytes, written))
        return {"seconds": seconds, "tokens": written, "text": text.decode(errors="replace")}

    def _bytes(self, token: int) -> bytes:
        piece = ctypes.create_string_buffer(256)
        length = llama.llama_token_to_piece(self._vocabulary, token, piece, len(piece), 0, False)
        return piece.raw[:length]


def _text(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode()


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _: Any) -> None:
    if level == 4:  # errors; the process that started this one tells the last of them
        sys.stderr.write(text.decode(errors="replace"))


def main() -> None:
    """`llama_worker.py MODEL THREADS POOLING`"""
    # What a library prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    llama.llama_log_set(_log, ctypes.c_void_p(0))
    llama.llama_backend_init()

    def answer(call: Callable[[], dict[str, Any]]) -> None:
        try:
            told = call()
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            told = {"error": str(error)}
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    path, threads, pooling = sys.argv[1:]
    workers: list[Worker] = []

    def begin() -> dict[str, Any]:
        workers.append(Worker(path, int(threads), pooling))
        return {"seconds": workers[0].seconds}

    answer(begin)
    if workers:
        for line in sys.stdin:
            request = json.loads(line)
            answer(partial(getattr(workers[0], request.pop("call")), **request))


if __name__ == "__main__":
    main()
