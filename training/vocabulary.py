"""A small vocabulary, chosen out of the RWKV World vocabulary for the mails of the generator.

vocabulary.py WORLD.txt OUT.txt [SIZE]     ids: 0 end of document, 1 to 256 the bytes, then longer tokens
vocabulary.py MODEL.gguf OUT.txt           the vocabulary of a model
"""

import ast
import collections
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from web_rwkv_py import Tokenizer

SIZE = 8192
# Tokens that the prompts are made of.
ALWAYS = (b"\n\n", b" Assistant", b"Assistant", b"User")


def read(path: Path) -> dict[int, bytes]:
    """Tokens by id, from a vocabulary file or from a GGUF, which holds them escaped."""
    if path.suffix == ".gguf":
        import gguf

        field = gguf.GGUFReader(path).get_field("tokenizer.ggml.tokens")
        texts = [bytes(field.parts[i]).decode() for i in field.data]
        return {i: text.encode().decode("unicode_escape").encode("latin-1") for i, text in enumerate(texts) if i}
    tokens = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        (number, rest), length = line.split(" ", 1), line.rindex(" ")
        literal = ast.literal_eval(rest[: length - len(number)].strip())
        tokens[int(number)] = literal.encode() if isinstance(literal, str) else literal
    return tokens


def write(path: Path, tokens: Iterable[bytes]) -> None:
    """Gives the tokens the ids from 1 on."""
    with path.open("w", encoding="utf-8") as f:
        for i, token in enumerate(tokens, 1):
            try:
                literal = repr(token.decode())
            except UnicodeDecodeError:
                literal = repr(token)
            f.write(f"{i} {literal} {len(token)}\n")


def count(tokens: list[bytes], texts: list[str]) -> list[int]:
    """How often each token is used."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "vocabulary.txt", tokens)
        tokenizer = Tokenizer(Path(folder) / "vocabulary.txt")
    counts = collections.Counter(i for text in texts for i in tokenizer.encode(text))
    return [counts[i] for i in range(1, len(tokens) + 1)]


def wanted(token: bytes) -> bool:
    """Digits only singly or in pairs, blank lines only as one token, no other scripts."""
    if token.count(b"\n") > 2 or b"\r" in token or (b"\n\n" in token and token != b"\n\n"):
        return False
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return False
    return all(ord(c) < 0x250 or 0x2010 <= ord(c) <= 0x2122 for c in text)


def choose(world: list[bytes], size: int, texts: list[str]) -> list[bytes]:
    """Shrinks the vocabulary step by step: what greedy matching does not use often goes first."""
    tokens = [token for token in world if len(token) == 1 or wanted(token)]
    for target in (32768, 20000, 14000, 10500, 9000, size - 1):
        used = dict(zip(tokens, count(tokens, texts)))
        kept = {token for token in tokens if len(token) == 1 or token in ALWAYS or token.strip().isdigit()}
        ranked = sorted(tokens, key=lambda token: (token not in kept, -used[token]))
        best = set(ranked[: max(target, size - 1)])
        tokens = [token for token in tokens if token in best]
    return tokens


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    tokens = list(read(source).values())
    if source.suffix != ".gguf":
        from mailgen import tasks

        random.seed(7)
        texts = [text for _ in range(40000) for text, _ in tasks.document()]
        world, tokens = tokens, choose(tokens, int(sys.argv[3]) if len(sys.argv) > 3 else SIZE, texts)
        length = sum(len(text.encode()) for text in texts)
        ours, theirs = (length / sum(count(x, texts)) for x in (tokens, world))
        print(f"{len(tokens)} tokens; {ours:.2f} bytes a token (World: {theirs:.2f})")
    write(out, tokens)


if __name__ == "__main__":
    main()
