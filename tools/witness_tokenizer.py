"""Write texts with the token ids of the reference tokenizer, TRIE_TOKENIZER of the PyPI package `rwkv`.

    pip install --no-deps rwkv
    python tools/witness_tokenizer.py OUT_DIR
    WITNESS_DIR=OUT_DIR cargo test -p web-rwkv-gguf --test tokenizer

OUT_DIR/tokenizer gets `vocab.txt`, the World vocabulary of the package; `vocab.json`, the same as a JSON
object; and `cases.jsonl`, one `{"hex": bytes of the text, "ids": [..]}` a line. `odd.txt` and `odd.jsonl`
are a small vocabulary of escapes, gaps and duplicates with its cases.
"""

import argparse
import importlib.util
import json
import random
import shutil
from pathlib import Path

SAMPLES = [
    "The quick brown fox jumps over the lazy dog, 1234567890 times.",
    "User: What is 2 + 2?\n\nAssistant: It's 4.\r\n\r\n",
    "在一个风和日丽的早晨,我们决定去爬山。山上有很多樹木和花朵。",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
    "Übergrößenträger, naïveté, œuvre, señor, İstanbul, Tiếng Việt, Ελληνικά",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 é e\u0301 \u200b\ufeff\U0010ffff ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋",
    "fn main() {\n    let x: Vec<u8> = vec![0; 16];\n\tprintln!(\"{x:?}\");\n}\n",
    "################################################################################\n" + " " * 200,
]

ODD = r"""3 '\x41\102\u00e9\U0001f600' 8
5 b'\xff\x00\777' 3
6 "it's" 4
7 'say "\'"' 7
8 'a' 1
9 'ab' 2
12 'a' 1
10 'ab' 2
13 b'\u0041\q' 8
14 '\q\\' 3
15 '\a\b\t\n\v\f\r\0' 8
20 ' ' 1
21 ' b' 2
300 'abcde' 5
301 b"\"'" 2
"""


def reference():
    """Load the reference's module and the path of its vocabulary, without importing torch."""
    folder = Path(importlib.util.find_spec("rwkv").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("rwkv_tokenizer", folder / "rwkv_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, folder / "rwkv_vocab_v20230424.txt"


def texts(rng, tokens):
    """Yield the samples, and random texts, token sequences, cut UTF-8 and raw bytes."""
    yield b""
    yield from (sample.encode() for sample in SAMPLES)
    yield from (bytes([byte]) for byte in range(256))
    code_points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for _ in range(500):
        joined = "".join(rng.choice(SAMPLES)[rng.randrange(20) :][: rng.randrange(1, 60)] for _ in range(6))
        yield joined.encode()
        yield "".join(chr(rng.choice(code_points)) for _ in range(rng.randrange(1, 60))).encode()
        yield b"".join(rng.choice(tokens) for _ in range(rng.randrange(1, 40)))
        yield rng.randbytes(rng.randrange(1, 200))
        cut = joined.encode()
        yield cut[rng.randrange(len(cut)) :][: rng.randrange(1, 100)]
        yield "".join(rng.choice(" \t\n\r#=-*aeE0.") * rng.randrange(1, 150) for _ in range(5)).encode()


def write(path, tokenizer, cases):
    """Write each case with the reference's ids; returns the number of cases."""
    cases = list(cases)
    with open(path, "w", encoding="ascii") as file:
        for case in cases:
            file.write(json.dumps({"hex": case.hex(), "ids": tokenizer.encodeBytes(case)}) + "\n")
    return len(cases)


def main():
    """Write the witness."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    out = parser.parse_args().out_dir / "tokenizer"
    out.mkdir(parents=True, exist_ok=True)
    module, vocab = reference()
    shutil.copyfile(vocab, out / "vocab.txt")
    rng = random.Random(7)

    world = module.TRIE_TOKENIZER(str(vocab))
    tokens = list(world.idx2token.values())
    as_json = {}
    for token_id, token in world.idx2token.items():
        try:
            as_json[token_id] = token.decode()
        except UnicodeDecodeError:
            as_json[token_id] = list(token)
    (out / "vocab.json").write_text(json.dumps(as_json), encoding="ascii")
    count = write(out / "cases.jsonl", world, [*texts(rng, tokens), *tokens])

    (out / "odd.txt").write_text(ODD, encoding="utf-8")
    odd = module.TRIE_TOKENIZER(str(out / "odd.txt"))
    tokens = list(odd.idx2token.values())
    odd_cases = (b"".join(rng.choices(tokens, k=rng.randrange(1, 9))) for _ in range(300))
    odd_count = write(out / "odd.jsonl", odd, filter(lambda case: covered(odd, case), odd_cases))
    print(f"{out}: {count} cases of the World vocabulary, {odd_count} of a small one")


def covered(tokenizer, case):
    """Whether the reference can encode the case; it fails without a match."""
    try:
        tokenizer.encodeBytes(case)
    except UnboundLocalError:
        return False
    return True


if __name__ == "__main__":
    main()
