"""The model, mails and schemas that come with the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent

FOLDER = next(
    folder
    # In a wheel they lie in the package, in a source checkout at the root of the repository.
    for folder in (_PACKAGE / "rwkv7-mail", _PACKAGE.parents[2] / "models" / "rwkv7-mail")
    if folder.is_dir()
)
EMBEDDED = FOLDER / "rwkv7-mail-q4_k_m.gguf"
"""The default model: 36 M parameters, 26 MB."""
DEMO_MAILS = sorted(FOLDER.glob("demo/*.eml"))
DEMO_SCHEMAS = sorted(FOLDER.glob("demo/*.toml"))
