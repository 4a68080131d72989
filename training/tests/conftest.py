"""The generator draws from the small lexicon in data/, which is ours, so that its tests run anywhere."""

import os
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
os.environ["MAILGEN_DATA"] = str(DATA)  # read when the generator is imported

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf"


@pytest.fixture(scope="session")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vocabulary of the embedded model, as a file."""
    import vocabulary

    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    vocabulary.write(path, vocabulary.read(EMBEDDED).values())
    return path
