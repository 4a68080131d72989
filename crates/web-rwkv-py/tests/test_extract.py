"""Fields out of documents."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

import web_rwkv_py as wrp
from conftest import MODELS


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


def test_a_document_may_be_bytes(model: wrp.Model) -> None:
    mail, schema = "Grüße: your order ORD-7 ships on 12 June.", {"order_number": "number of the order"}
    want = model.extract(mail, schema)["order_number"]
    for data in (mail.encode(), bytearray(mail.encode())):
        found = model.extract(data, schema)["order_number"]
        assert (found.value, found.start, found.end) == (want.value, want.start, want.end)
        assert found.value == data[found.start : found.end].decode()
    with pytest.raises(wrp.RequestError, match=r"^document: expected UTF-8, found byte 0xff at 7$"):
        model.extract(b"a mail \xff", schema)


def test_extractions_go_to_other_processes(model: wrp.Model) -> None:
    found = model.extract(
        "Grüße: your order ORD-7 ships.", {"order_number": "number of the order", "iban": "IBAN"}
    )
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        there = pool.submit(copy.copy, found).result(60)
    for other in (there, copy.copy(found), copy.deepcopy(found)):
        assert isinstance(other, wrp.Extraction)
        assert repr(other.timings) == repr(found.timings)
        assert (other.doc_tokens, other.generated_tokens) == (found.doc_tokens, found.generated_tokens)
        assert other.state == found.state
        assert other.values == found.values
        names = ["name", "value", "start", "end", "confidence", "similarity"]
        for a, b in zip(other.fields, found.fields):
            assert [getattr(a, name) for name in names] == [getattr(b, name) for name in names]


def test_options_of_extraction(model: wrp.Model) -> None:
    mail, schema = "Your order ORD-7 ships on 12 June.", {"order_number": "number of the order"}
    assert model.extract(mail, schema, none_bias=-1000.0)["order_number"].value is None
    assert model.extract(mail, schema, none_bias=1000.0)["order_number"].value is not None
    assert model.extract(mail, schema, max_tokens=2).generated_tokens <= 3
    assert model.extract("", schema).fields[0].start is None
    assert model.extract(mail, {}).values == {}
