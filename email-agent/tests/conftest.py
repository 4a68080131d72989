"""What the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from web_rwkv_py import Model

from rwkv_email_agent.models import EMBEDDED, FOLDER


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of the demo mails and their schemas."""
    return FOLDER / "demo"


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    """The embedded model."""
    with Model(EMBEDDED) as opened:
        yield opened
