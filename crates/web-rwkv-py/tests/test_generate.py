"""Texts that are written, at once and piece by piece."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import web_rwkv_py as wrp
from conftest import MODELS


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


def test_documents_of_the_demo_are_extracted(model: wrp.Model) -> None:
    lines = (MODELS / "demo-emails.jsonl").read_text().splitlines()
    right = total = 0
    for mail in map(json.loads, lines):
        found = model.extract(mail["email"], mail["schema"])
        assert [f.name for f in found.fields] == list(mail["schema"])
        for field in found.fields:
            assert found[field.name].value == field.value == found.values[field.name]
            assert 0 < field.confidence <= 1
            assert -1.001 <= field.similarity <= 1.001
            if field.value is not None:
                quoted = mail["email"].encode()[field.start : field.end].decode()
                assert " ".join(quoted.split()) == field.value
            gold = mail["gold"][field.name]
            right += (field.value or "none").strip(".,;:!").lower() == gold.strip(".,;:!").lower()
            total += 1
        times = found.timings
        assert min(times.tokenize, times.doc_state, times.field_analysis, times.values) > 0
        assert found.generated_tokens >= len(found.fields)
    # The model card: 86.7 % of 30.
    assert total == 30
    assert right >= 26


def test_extraction_gives_the_state_of_the_document(model: wrp.Model) -> None:
    mail, schema = " Your order ORD-7 ships on 12 June. ", {"order_number": "number of the order"}
    found = model.extract(mail, schema)
    model.run(f"User: {mail.strip()}\n\n", option=wrp.PyRnnOption.EmbedLast)
    np.testing.assert_allclose(found.state.to_numpy(), model.back_state_numpy(), atol=1e-3)
    hidden = [model.embed(f"User: {mail.strip()}\n\n"), model.embed("order_number: number of the order")]
    a, b = (h / np.linalg.norm(h) for h in hidden)
    assert found["order_number"].similarity == pytest.approx(float(a @ b), abs=1e-4)
    question = "order_number: number of the order\n\nAssistant:"
    answer = model.generate(question, temperature=0, stop="\n\n", state=found.state)
    assert model.extract(mail, schema, free=True)["order_number"].value == answer.strip()
    with pytest.raises(KeyError):
        found["missing"]
    assert "order_number" in repr(found)


def test_extraction_tells_its_progress(model: wrp.Model) -> None:
    told: list[tuple[int, int]] = []
    found = model.extract("A mail. " * 300, {"a": "b"}, progress=lambda *at: told.append(at))
    assert len(told) > 1
    assert told[-1] == (found.doc_tokens, found.doc_tokens)


def test_options_of_extraction(model: wrp.Model) -> None:
    mail, schema = "Your order ORD-7 ships on 12 June.", {"order_number": "number of the order"}
    assert model.extract(mail, schema, none_bias=-1000.0)["order_number"].value is None
    assert model.extract(mail, schema, none_bias=1000.0)["order_number"].value is not None
    assert model.extract(mail, schema, max_tokens=2).generated_tokens <= 3
    assert model.extract("", schema).fields[0].start is None
    assert model.extract(mail, {}).values == {}
