"""Packs generated documents into rows of tokens, in worker processes."""

import multiprocessing as mp
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from web_rwkv_py import Tokenizer

from mailgen import tasks

# How much the loss of a token counts, by the part of the document that it stands in.
WEIGHTS = {tasks.EMAIL: 0.3, tasks.QUESTION: 0.1, tasks.ANSWER: 1.0, tasks.PROSE_TEXT: 0.4}
END, END_WEIGHT = 0, 0.3
# Shorter documents teach nothing.
SHORTEST = 40


def encode(pieces: list[tuple[str, int]], tokenizer: Tokenizer, limit: int) -> tuple[list[int], list[float]]:
    """Token ids and weights of a document; where it is too long the last questions are left out."""
    ids, weights, end = [], [], 0
    for text, part in pieces:
        tokens = tokenizer.encode(text)
        ids += tokens
        weights += [WEIGHTS[part]] * len(tokens)
        whole = part == tasks.PROSE_TEXT or text == "\n\n"
        if whole and len(ids) < limit:
            end = len(ids)
    return [*ids[:end], END], [*weights[:end], END_WEIGHT]


def packed_rows(tokenizer: Tokenizer, length: int, open_rows: int = 12) -> Iterator[tuple[list[int], list[float]]]:
    """Rows of `length` ids and weights: whole documents, each put where it fits best."""
    rows = [([], []) for _ in range(open_rows)]
    while True:
        ids, weights = encode(tasks.document(), tokenizer, length)
        if len(ids) < SHORTEST:
            continue
        fits = [row for row in rows if len(row[0]) + len(ids) <= length]
        if not fits:
            fullest = max(range(open_rows), key=lambda i: len(rows[i][0]))
            row, rows[fullest] = rows[fullest], ([], [])
            pad = length - len(row[0])
            yield row[0] + [END] * pad, row[1] + [0.0] * pad
            fits = [rows[fullest]]
        best = max(fits, key=lambda row: len(row[0]))
        best[0].extend(ids)
        best[1].extend(weights)


def groups(vocab: Path, length: int, batch: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless ids (int16) and weights (float16), each [batch, length]; the seed decides all of them."""
    random.seed(seed)
    rows = packed_rows(Tokenizer(vocab), length)
    while True:
        ids, weights = zip(*(next(rows) for _ in range(batch)))
        yield np.array(ids, np.int16), np.array(weights, np.float16)


def _work(queue: mp.Queue, *args) -> None:
    for group in groups(*args):
        queue.put(group)


def batches(vocab: Path, length: int, batch: int, workers: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `groups` gives, made by several processes: in which order, nothing decides."""
    context = mp.get_context("fork")
    queue = context.Queue(4 * workers)
    for i in range(workers):
        args = (queue, vocab, length, batch, seed * 1000 + i)
        context.Process(target=_work, args=args, daemon=True).start()
    while True:
        yield queue.get()
