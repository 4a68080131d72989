"""The model, mails and schemas that come with the package, and what tells models apart."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .errors import AgentError

FOLDER = Path(__file__).parent / "rwkv7-mail"
EMBEDDED = FOLDER / "rwkv7-mail-q4_k_m.gguf"
"""The default model: 36 M parameters, 26 MB."""
DEMO_MAILS = sorted(FOLDER.glob("demo/*.eml"))
DEMO_SCHEMAS = sorted(FOLDER.glob("demo/*.toml"))


def demo_mail(name: str) -> Path:
    """A mail that comes with the package. Raises `AgentError` where the package came without."""
    path = FOLDER / "demo" / f"{name}.eml"
    if path not in DEMO_MAILS:
        raise AgentError(f"{path}: expected the package's own mail, found nothing: install its wheel or a checkout")
    return path


def fingerprint(model: str | os.PathLike[str]) -> str:
    """Tells model files apart by their size and their first and last MiB."""
    size, part = os.path.getsize(model), 1 << 20
    with open(model, "rb") as file:
        digest = hashlib.sha256(f"{size}\n".encode() + file.read(part))
        file.seek(max(0, size - part))
        digest.update(file.read(part))
    return digest.hexdigest()
