"""What the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_rwkv_py import Model

from rwkv_email_agent.models import EMBEDDED, FOLDER

# What "auto" is: the CPU, whose results are the same every time.
os.environ.setdefault("WEB_RWKV_DEVICE", "cpu")


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of the demo mails and their schemas."""
    return FOLDER / "demo"


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    """The embedded model."""
    with Model(EMBEDDED) as opened:
        yield opened
