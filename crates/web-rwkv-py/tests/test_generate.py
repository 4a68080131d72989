"""Texts that are written, at once and piece by piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import web_rwkv_py as wrp


def greedy(model: wrp.Model, prompt: str, count: int) -> list[int]:
    """The likeliest tokens, by `run` and numpy."""
    model.clear_state()
    logits, tokens = model.run(prompt), []
    for _ in range(count):
        tokens.append(int(np.argmax(logits)))
        logits = model.run(tokens[-1:])
    return tokens


def test_temperature_zero_takes_the_likeliest(model: wrp.Model) -> None:
    stream = model.stream("User: The parcel", 12, temperature=0)
    assert iter(stream) is stream
    text = "".join(stream)
    assert stream.tokens == greedy(model, "User: The parcel", 12)
    assert text == stream.text == model.tokenizer.decode(stream.tokens).decode()
    assert text == model.generate("User: The parcel", max_tokens=12, temperature=0)
    assert not stream.stopped
    assert next(stream, None) is None


def test_seeds(model: wrp.Model) -> None:
    texts = [model.generate("User:", 20, top_p=1, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_stop_texts_are_left_out(model: wrp.Model) -> None:
    whole = model.generate("User: The parcel", 30, temperature=0)
    word = whole.split()[2]
    want = whole[: whole.index(word)]
    for stop in (word, word.encode(), [word], ("~~~", word)):
        assert model.generate("User: The parcel", 30, temperature=0, stop=stop) == want
    stream = model.stream("User: The parcel", 30, temperature=0, stop=word)
    assert "".join(stream) == want
    assert stream.stopped
    assert model.generate("User: The parcel", 30, temperature=0, stop=()) == whole


def test_a_state_is_gone_on_from_and_left(model: wrp.Model) -> None:
    whole = model.generate("User: The parcel", 10, temperature=0)
    model.run("User: The")
    state = model.back_state()
    before = bytes(state)
    assert model.generate(" parcel", 10, temperature=0, state=state) == whole
    assert bytes(state) == before
    assert model.back_state() == state


@pytest.fixture(scope="session")
def babbler(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> wrp.Model:
    """A model of zeros draws tokens evenly; these are the bytes of characters, and parts of them."""
    parts = [
        "b'\\xe2'",
        "b'\\x82'",
        "b'\\xac'",
        "b'\\xf0\\x9f'",
        "b'\\x99\\x82'",
        "'a'",
        "b'\\xc3'",
        "b'\\xbc'",
    ]
    lengths = [1, 1, 1, 2, 2, 1, 1, 1]
    vocab = tmp_path_factory.mktemp("vocab") / "bytes.txt"
    vocab.write_text("".join(f"{i} {p} {n}\n" for i, p, n in zip(range(1, 9), parts, lengths)))
    return wrp.Model(wide, vocab=vocab)


@pytest.mark.parametrize("seed", range(8))
def test_pieces_never_split_a_character(babbler: wrp.Model, seed: int) -> None:
    stream = babbler.stream([6], 24, top_p=1, seed=seed)
    pieces = list(stream)
    # Ids beyond the vocabulary are padding and have no bytes; 0 ends the document.
    ids = [t for t in stream.tokens if 0 < t < 9]
    want = b"".join(babbler.tokenizer.decode([t]) for t in ids).decode(errors="replace")
    assert "".join(pieces) == stream.text == want
    assert all(pieces)
    for whole in "€🙂ü":
        assert sum(piece.count(whole) for piece in pieces) == want.count(whole)
