"""The interface that programs for the predecessor were written against, with the semantics fixed now."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

import web_rwkv_py as wrp
from conftest import EMBEDDED

TOKENS = [int(t) for t in np.random.default_rng(1).integers(1, 8192, 300)]


def test_lines_of_the_predecessor_work_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").symlink_to(EMBEDDED)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"tokens": TOKENS, "a": TOKENS[:7], "b": TOKENS[7:8], "c": TOKENS[8:]}
    exec(  # as text, so that no formatter and no type checker bends them
        """
import numpy as np, web_rwkv_py as wrp
model = wrp.Model("model.gguf")
logits = model.run(tokens, token_chunk_size=128)                      # continues the live state
doc = model.back_state().to_numpy()                                   # no list in between
same = model.back_state_numpy()
emb = model.embed(tokens, token_chunk_size=128, last_only=True)       # head skipped, live state untouched
embs = model.embed_batch([a, b, c], token_chunk_size=512)             # one pass, ragged
hid = model.run(tokens, option=wrp.PyRnnOption.EmbedFull)
model.clear_state(); model.load_state(model.init_state())
""",
        names,
    )
    logits, hid, doc, same, emb, embs = (names[n] for n in ["logits", "hid", "doc", "same", "emb", "embs"])
    assert isinstance(logits, list)
    assert len(logits) == 8192
    assert isinstance(hid, list)
    assert len(hid) == 300 * 512
    for array, shape in [(doc, (8 * 66 * 512,)), (same, (8 * 66 * 512,)), (emb, (512,))]:
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        assert array.shape == shape
    assert isinstance(embs, list)
    assert [e.shape for e in embs] == [(512,)] * 3


def test_layers_are_quantized_at_load(model: wrp.Model) -> None:
    path = Path(os.environ.get("WITNESS_DIR", "target/witness"), "models", "f16.gguf")
    if not path.exists():
        pytest.skip(f"no {path} (make test writes it)")
    tokens = [t % 256 for t in TOKENS[:40]]

    def logits(**layers: int) -> npt.NDArray[np.float64]:
        return np.array(wrp.Model(path, **layers).run(tokens))  # type: ignore[arg-type]

    def error(x: npt.NDArray[np.float64]) -> float:
        return float(((x - plain) ** 2).sum() / (plain**2).sum())

    plain = logits()
    assert_array_equal(logits(quant=0, quant_nf4=0, quant_sf4=0), plain)
    both = logits(quant=2)
    assert 1e-6 < error(both) < 1e-3
    assert 0 < error(logits(quant=1)) != error(both)
    assert_array_equal(logits(quant=1000), both)
    nf4 = logits(quant_nf4=2)
    assert 10 * error(both) < error(nf4) < 0.1
    assert_array_equal(logits(quant_sf4=2), nf4)
    assert_array_equal(logits(quant=1, quant_nf4=2), nf4)
    # What is quantized stays as it is.
    embedded = wrp.Model(EMBEDDED, quant=8, quant_nf4=8, quant_sf4=8)
    assert_array_equal(embedded.run(TOKENS), model.run(TOKENS))


def test_golden_vectors() -> None:
    witness = Path(os.environ.get("WITNESS_DIR", "target/witness"), "models", "rwkv7-mail.golden")
    weights = Path(__file__).parents[4] / "shared" / "models" / "rwkv7-mail" / "rwkv7-mail.safetensors"
    for path in (witness, weights):
        if not path.exists():
            pytest.skip(f"no {path} (make test writes golden vectors; they need ../shared)")
    golden = load_file(witness)
    model = wrp.Model(weights)
    layers, rows, channels = model.init_state().shape
    for i in range(6):
        want = {
            name: golden[f"{i}_{name}"]
            for name in ["ids", "logits", "hidden", "att_shift", "wkv", "ffn_shift"]
        }
        model.clear_state()
        assert_close(model.run(want["ids"]), want["logits"].ravel())
        assert_close(model.embed(want["ids"]), want["hidden"].ravel())
        state = model.back_state().to_numpy().reshape(layers, rows, channels)
        # The official state is [head][value i][key j], ours has a row for each key.
        wkv = want["wkv"].reshape(layers, -1, rows - 2, rows - 2).transpose(0, 3, 1, 2)
        assert_close(state[:, 0], want["att_shift"].reshape(layers, channels))
        assert_close(state[:, 1:-1], wkv.reshape(layers, rows - 2, channels))
        assert_close(state[:, -1], want["ffn_shift"].reshape(layers, channels))


def assert_close(got: npt.ArrayLike, want: npt.ArrayLike) -> None:
    """What steps of activations may change, and of floats where they are multiplied as integers (AVX-512)."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.square(got - want).sum() <= 1e-7 * np.square(want).sum()


def test_pieces_are_the_whole(model: wrp.Model) -> None:
    whole = model.run(TOKENS, token_chunk_size=300)
    state = model.back_state_numpy()
    model.clear_state()
    model.run(TOKENS[:100], 7)
    model.run([])
    pieces = model.run(TOKENS[100:], token_chunk_size=64)
    assert_close(pieces, whole)
    assert_close(model.back_state_numpy(), state)


def test_options(model: wrp.Model) -> None:
    def run(option: wrp.PyRnnOption) -> np.ndarray:
        model.clear_state()
        return np.array(model.run(TOKENS[:9], option=option), np.float32)

    full, hidden = run(wrp.PyRnnOption.Full).reshape(9, -1), run(wrp.PyRnnOption.EmbedFull).reshape(9, -1)
    assert_close(run(wrp.PyRnnOption.Last), full[-1])
    assert_close(run(wrp.PyRnnOption.EmbedLast), hidden[-1])
    model.clear_state()
    assert_close(model.run_full(TOKENS[:9]), full.ravel())
    assert_close(model.embed(TOKENS[:9], last_only=False), hidden.ravel())


def test_embeddings_and_the_live_state_are_apart(model: wrp.Model) -> None:
    sequences = [TOKENS[:5], TOKENS[5:6], TOKENS[6:200]]
    alone = [model.embed(s) for s in sequences]
    model.run(TOKENS)
    before = model.back_state()
    for got, want in zip(model.embed_batch(sequences), alone):
        assert_close(got, want)
    assert_close(model.embed(sequences[0]), alone[0])
    for iterable in (tuple(sequences), iter(sequences), (np.array(s) for s in sequences)):
        assert_array_equal(model.embed_batch(iterable), model.embed_batch(sequences))
    array = np.array(TOKENS[:30]).reshape(3, 10)
    assert_array_equal(model.embed_batch(array), model.embed_batch(array.tolist()))
    with pytest.raises(ZeroDivisionError):
        model.embed_batch([1 // n] for n in (1, 0))
    assert model.back_state() == before


def test_pools_and_states_of_embeddings(model: wrp.Model) -> None:
    every = model.embed(TOKENS, pool="none")
    assert every.shape == (300, 512)
    assert_close(model.embed(TOKENS, pool="last"), every[-1])
    assert_close(model.embed(TOKENS, pool="mean"), every.mean(0))
    assert [e.shape for e in model.embed_batch([TOKENS, TOKENS[:2]], pool="none")] == [(300, 512), (2, 512)]
    model.run(TOKENS[:100])
    state = model.back_state()
    assert_close(model.embed(TOKENS[100:], state=state), every[-1])
    assert_close(model.embed_batch([TOKENS[100:]], state=state)[0], every[-1])
    assert model.back_state() == state


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64, ">i4"])
def test_ids_of_any_integer_type(model: wrp.Model, dtype: str) -> None:
    want = model.embed(TOKENS)
    array = np.array(TOKENS, dtype)
    assert_array_equal(model.embed(array), want)
    assert_array_equal(model.embed(np.repeat(array, 2)[::2]), want)  # strided
    assert_array_equal(model.embed(list(array)), want)
    assert_array_equal(model.embed(tuple(TOKENS)), want)


def test_text_goes_where_tokens_go(model: wrp.Model) -> None:
    text = "Zürich, 12 June 🙂"
    ids = model.tokenizer.encode(text)
    assert model.tokenizer.decode(np.array(ids)).decode() == text
    want = model.embed(ids)
    for given in (text, text.encode(), bytearray(text.encode())):
        assert model.tokenizer.encode(given) == ids
        assert_array_equal(model.embed(given), want)
    assert_close(model.embed_batch([text, ids])[0], want)
    logits = model.run(text)
    model.clear_state()
    assert model.run(ids) == logits


def test_info_and_names(model: wrp.Model) -> None:
    info = model.info()
    assert info.version == wrp.ModelVersion.V7
    assert (info.num_layer, info.num_emb, info.num_hidden, info.num_vocab, info.num_head) == (
        8,
        512,
        2048,
        8192,
        8,
    )
    assert model.back_state(wrp.StateDevice.Cpu).device() == wrp.StateDevice.Cpu
    assert wrp.Model(EMBEDDED, 0, 0, 0, device="cpu", threads=1).threads == 1
    assert {wrp.PyRnnOption.Last: 1}[wrp.PyRnnOption.Last] == 1
    for thing in (model, info, model.tokenizer, model.init_state()):
        assert type(thing).__name__ in repr(thing)


def test_the_fast_mode_is_close_to_the_exact_one() -> None:
    tokens = [1 + 7 * i % 8000 for i in range(64)]
    exact, fast = (wrp.Model(EMBEDDED, device="cpu", fast=fast) for fast in (False, True))
    assert (exact.fast, fast.fast) == (False, True)
    want, got = (np.array(model.run(tokens), np.float64) for model in (exact, fast))
    assert 0 < ((got - want) ** 2).sum() / (want**2).sum() < 1e-3


def test_info_and_names_are_values(model: wrp.Model) -> None:
    info = model.info()
    for thing in (info, wrp.PyRnnOption.EmbedLast, wrp.ModelVersion.V6, wrp.StateDevice.Gpu):
        copies = [
            pickle.loads(pickle.dumps(thing, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ]
        for other in (*copies, copy.copy(thing), copy.deepcopy(thing)):
            assert type(other) is type(thing)
            assert other == thing
            assert hash(other) == hash(thing)
            assert repr(other) == repr(thing)
    assert info == wrp.Model(EMBEDDED).info()
    assert eval(repr(info), vars(wrp)) == info
    assert info != wrp.ModelInfo(wrp.ModelVersion.V7, 8, 512, 2048, 8192, 8, 65)
    assert info != "info"


def test_a_vocabulary_from_a_file(wide: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("1 'a' 1\n2 'ab' 2\n3 '\\n' 1\n")
    assert wrp.Tokenizer(vocab).encode(b"aab\n") == [1, 2, 3]
    with wrp.Model(wide, vocab=vocab) as model:
        assert model.tokenizer.encode("aba") == [2, 1]
        assert model.embed("aba").shape == (64,)


def test_progress(model: wrp.Model) -> None:
    told: list[tuple[int, int]] = []
    model.run(TOKENS[:100], 40, progress=lambda read, total: told.append((read, total)))
    assert told == [(40, 100), (80, 100), (100, 100)]
    told.clear()
    model.embed_batch([TOKENS[:50], TOKENS[:30]], 40, progress=lambda *at: told.append(at))
    assert (told[0], told[-1]) == ((40, 80), (80, 80))
