"""Runners and measurements; those of llama.cpp where llama-cpp-python is installed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rwkv_email_agent.benchmark_tui import shown
from rwkv_email_agent.benchmark_tui.benchmark import BACKENDS, STEPS, Measurement, Run, measure
from rwkv_email_agent.benchmark_tui.model import LlamaCompletionRunner, RWKVCompletionRunner, llama_is_there
from rwkv_email_agent.cli import main
from rwkv_email_agent.errors import AgentError
from rwkv_email_agent.mail import read_mail
from rwkv_email_agent.models import EMBEDDED

needs_llama = pytest.mark.skipif(not llama_is_there(), reason="llama-cpp-python is not installed")
QUESTION = "invoice_number: number of the invoice\n\nAssistant:"


@pytest.fixture(scope="module")
def ours() -> Iterator[RWKVCompletionRunner]:
    runner = RWKVCompletionRunner(EMBEDDED, "cpu")
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def theirs() -> Iterator[LlamaCompletionRunner]:
    runner = LlamaCompletionRunner(EMBEDDED, 2)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def document(demo: Path) -> str:
    return f"User: {read_mail((demo / 'invoice.eml').read_bytes()).text}\n\n"


def test_our_runner(ours: RWKVCompletionRunner, document: str) -> None:
    tokens = ours.tokenize(document)
    ours.reset_state()
    logits = ours.run(tokens)
    assert logits.shape == (8192,)
    state = ours.back_state_numpy()
    assert np.array_equal(state, ours.back_state().to_numpy())
    assert ours.generate(ours.tokenize(QUESTION), 40, "\n\n")[0] == " INV-2024-0457"
    after = ours.back_state_numpy()
    ours.reset_state()
    ours.run([*tokens, *ours.tokenize(QUESTION), *ours.tokenize(" INV-2024-0457")])
    np.testing.assert_allclose(after, ours.back_state_numpy(), atol=2e-2)
    vector, same = ours.read_document(tokens)
    assert vector.shape == (512,)
    np.testing.assert_allclose(same, state, atol=1e-3)
    np.testing.assert_allclose(ours.embed(tokens), vector, atol=1e-2)
    batch = ours.embed_batch([tokens[:7], tokens])
    np.testing.assert_allclose(batch[1], vector, atol=1e-2)
    assert ours.seconds > 0


@needs_llama
def test_llama_agrees(ours: RWKVCompletionRunner, theirs: LlamaCompletionRunner, document: str) -> None:
    """The same ids in give the same things out, up to the 8-bit activations of llama.cpp."""
    tokens = ours.tokenize(document)
    assert theirs.tokenize_all([document, "a <s> b", "€ Grüße"]) == ours.tokenize_all([document, "a <s> b", "€ Grüße"])

    def near(a: np.ndarray, b: np.ndarray) -> bool:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) > 0.995

    assert near(ours.read_document(tokens)[0], theirs.read_document(tokens)[0])
    for a, b in zip(ours.embed_batch([tokens[:5], tokens[5:25]]), theirs.embed_batch([tokens[:5], tokens[5:25]])):
        assert near(a, b)
    long = tokens * 5  # more than a chunk
    assert near(ours.embed(long), theirs.embed(long))
    for runner in (ours, theirs):
        runner.reset_state()
        runner.run(tokens)
        assert runner.back_state_numpy().nbytes > 1_000_000
    assert near(ours.run(tokens[:3]), theirs.run(tokens[:3]))
    answers = []
    for runner in (ours, theirs):
        runner.reset_state()
        runner.run(tokens)
        answers.append(runner.generate(QUESTION, 40, "\n\n"))
    assert answers[0] == answers[1]
    # Both went on from the live state and left their end in it.
    assert near(ours.run(tokens[:3]), theirs.run(tokens[:3]))
    many = [tokens[i : i + 9] for i in range(70)] + [long]
    assert all(near(a, b) for a, b in zip(ours.embed_batch(many), theirs.embed_batch(many)))
    assert theirs.embed_batch([]) == []


@needs_llama
def test_a_crash_of_llama_is_an_error(theirs: LlamaCompletionRunner, tmp_path: Path) -> None:
    runner = LlamaCompletionRunner(EMBEDDED, 1)
    os.kill(runner._process.pid, signal.SIGSEGV)
    with pytest.raises(AgentError, match=r"llama\.cpp: crashed with SIGSEGV"):
        runner.tokenize("x")
    runner.close()
    (tmp_path / "no.gguf").write_bytes(b"GGUF and then nothing")
    with pytest.raises(AgentError, match=r"no\.gguf: llama\.cpp cannot load it"):
        LlamaCompletionRunner(tmp_path / "no.gguf", 1)
    with pytest.raises(AgentError, match="expected texts of 1 token or more"):
        theirs.embed_batch([[]])
    with pytest.raises(AgentError, match="found a closed one"):
        runner.run("x")


def test_headless_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--headless", "--json", "--repeats", "1", "--threads", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["threads"] == 1
    assert told["document_tokens"] > 100
    assert told["fields"] == 6
    figures = told["backends"]["cpu"]["figures"]
    assert set(figures) == {step.id for step in STEPS} == set(told["measured"])
    assert all(f["min"] <= f["median"] <= f["max"] for f in figures.values())
    llama = told["backends"]["llama"]
    if llama_is_there():
        assert llama["error"] is None
        assert llama["same_tokens"] is True
        assert llama["answer"] == told["backends"]["cpu"]["answer"]
        assert figures["doc_state"]["ratio_to_llama"] > 0
    else:
        assert "llama-cpp-python" in llama["error"]
    values = {field["name"]: field["value"] for field in told["extraction"]}
    assert values["invoice_number"] == "INV-2024-0457"


def test_headless_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["dashboard", "--headless", "--repeats", "1"]) == 0
    told = capsys.readouterr().out
    for text in ("model load", "generation", "doc state", "field analysis", "tok/s", "llama_state_seq_get_data"):
        assert text in told


def test_a_run_can_be_stopped() -> None:
    run = measure(EMBEDDED, "x", "hello", {"a": "b"}, threads=1, repeats=1, stopped=lambda: True, backends=BACKENDS[:1])
    assert run.rounds == 0
    assert not run.backends["cpu"].samples


def test_ratios() -> None:
    run = Run("m", "x", 1, 1)
    run.backends = {"cpu": Measurement("ours"), "llama": Measurement("theirs")}
    load, generation = STEPS[0], STEPS[2]
    assert run.ratio(load, "cpu") is None
    for name, value in (("cpu", 10.0), ("llama", 20.0)):
        run.backends[name].samples = {load.id: [value], generation.id: [value]}
    assert run.ratio(load, "cpu") == 2, "half the time is twice as fast"
    assert run.ratio(generation, "cpu") == 0.5, "half the tokens a second are half as fast"
    assert run.ratio(load, "gpu") is None
    assert "2.00×" in shown.figure(run, load, BACKENDS[0]).plain
    assert shown.figure(run, load, BACKENDS[1]).plain == "–"


def test_values_are_marked_where_they_stand(demo: Path) -> None:
    document = read_mail((demo / "invoice.eml").read_bytes()).text
    runner = RWKVCompletionRunner(EMBEDDED)
    found = runner.extract(
        document, {"total_amount": "how much has to be paid", "late_fee": "extra charge for paying late"}
    )
    runner.close()
    text = shown.marked(document, found.fields)
    assert text.plain == document
    assert [text.plain[span.start : span.end] for span in text.spans] == [f.value for f in found.fields]
    assert found.fields[0].value == "€1,284.60", "behind a character of three bytes"


def test_bars() -> None:
    assert shown.bar(0, 4).plain == "    │    "
    assert shown.bar(1, 4).plain == "    │████"
    assert shown.bar(0.5, 3).plain == "   │█▌ "
    assert shown.bar(-0.5, 3).plain == " ▐█│   "
    assert shown.bar(-7, 2).plain == "██│  "
