"""The vocabulary, and documents as tokens."""

import itertools
import random
from pathlib import Path

import numpy as np
from conftest import EMBEDDED
from web_rwkv_py import Model, Tokenizer

import data
import vocabulary
from mailgen import tasks


def test_a_vocabulary_is_read_as_it_was_written(vocab: Path) -> None:
    tokens = vocabulary.read(EMBEDDED)
    assert vocabulary.read(vocab) == tokens
    assert list(tokens) == list(range(1, vocabulary.SIZE))
    assert [tokens[i + 1] for i in range(256)] == [bytes([i]) for i in range(256)]
    text = "Grüße 'n' \"quotes\" \\ back\n\n\t€1,284.60 \U0001f600"
    assert Tokenizer(vocab).encode(text) == Model(EMBEDDED).tokenizer.encode(text)


def test_a_small_vocabulary_keeps_what_is_used() -> None:
    world = list(vocabulary.read(EMBEDDED).values())
    random.seed(3)
    texts = [text for _ in range(30) for text, _ in tasks.document()]
    chosen = vocabulary.choose(world, 1200, texts)
    assert len(chosen) == len(set(chosen)) == 1199
    assert set(vocabulary.ALWAYS) & set(world) <= set(chosen)
    assert {bytes([i]) for i in range(256)} <= set(chosen)
    # Longer than in bytes by far, and hardly longer than with all tokens.
    lengths = [sum(vocabulary.count(tokens, texts)) for tokens in (world, chosen)]
    assert lengths[0] <= lengths[1] < 1.3 * lengths[0]


def test_rows_hold_whole_documents(vocab: Path) -> None:
    def first(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(itertools.islice(data.groups(vocab, 512, 4, seed), 3))

    tokenizer = Tokenizer(vocab)
    for (ids, weights), (again, _) in zip(first(1), first(1)):
        np.testing.assert_array_equal(ids, again)
        assert ids.shape == weights.shape == (4, 512)
        for row, weight in zip(ids, weights):
            # Nothing is learned of the padding; a document ends with token 0 and begins anew after it.
            ends = np.flatnonzero((row == data.END) & (weight > 0))
            assert weight[ends[-1] + 1 :].sum() == 0
            for end, after in itertools.pairwise(ends):
                assert after - end >= data.SHORTEST
            if row[0] == tokenizer.encode("User")[0]:
                assert b"Assistant:" in tokenizer.decode(row[: ends[0]])
    assert not np.array_equal(first(1)[0][0], first(2)[0][0])
