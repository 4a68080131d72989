"""What foreign text and wide tables need before they are printed."""

from __future__ import annotations

import unicodedata

from rich.console import Console

_WIDE = 200


def printable(text: str) -> str:
    """Text whose control and format characters (C0, C1, bidirectional) stand escaped: a mail moves no cursor."""
    kept = (c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else ascii(c)[1:-1] for c in text)
    return "".join(kept)


def console() -> Console:
    """Standard output; where it is no terminal, wide enough that lines stay whole."""
    found = Console()
    return found if found.is_terminal or found._environ.get("COLUMNS") else Console(width=_WIDE)
