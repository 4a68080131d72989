"""Sets of mails with known fields, and how many of them a model in training gets right.

  mailsets.py OUT [--mails 60] [--seed 990001]

writes OUT/generated-known-kinds.jsonl and OUT/generated-new-kinds.jsonl, with which ../tools/evaluate.py measures an
exported model as users run it.
"""

import argparse
import collections
import json
import random
from pathlib import Path

from web_rwkv_py import Tokenizer

from mailgen import tasks
from mailgen.kinds import HELD_OUT_KINDS, TRAIN_KINDS, Kind

# The text of a mail, and (name, description, value) of each of its fields.
Example = tuple[str, list[tuple[str, str, str]]]
QUESTIONS = 8


def generated(kinds: list[Kind], mails: int, seed: int, mixed: float = 0.0) -> list[Example]:
    """Mails of these kinds; a share of `mixed` is of no kind. The seed decides all of them."""
    random.seed(seed)
    examples: list[Example] = []
    while len(examples) < mails:
        mail = tasks.Mail(None if random.random() < mixed else random.choice(kinds))
        triples = tasks.questions(mail, kinds, QUESTIONS)
        if triples:
            examples.append((mail.text, [(name, asks, value or tasks.NONE) for name, asks, value in triples]))
    return examples


def generated_sets(mails: int, seed: int = 990001) -> dict[str, list[Example]]:
    """Mails that the training has not seen: of the kinds that it has, and of others."""
    return {
        "known-kinds": generated(TRAIN_KINDS, mails, seed, 0.3),
        "new-kinds": generated(HELD_OUT_KINDS, mails, seed + 1),
    }


def read_set(path: Path) -> list[Example]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(r["email"], [(name, asks, r["gold"][name]) for name, asks in r["schema"].items()]) for r in rows]


def write_set(path: Path, name: str, examples: list[Example]) -> None:
    with path.open("w", encoding="utf-8") as f:
        for i, (email, triples) in enumerate(examples):
            schema, gold = ({triple[0]: triple[n] for triple in triples} for n in (1, 2))
            row = {"id": f"{name}-{i:03}", "email": email, "schema": schema, "gold": gold}
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def prompt(tokenizer: Tokenizer, email: str, name: str, description: str) -> list[int]:
    """Each piece is tokenized on its own, as the engine does."""
    question = f"{name}: {description}\n\nAssistant:"
    return tokenizer.encode(f"User: {email.strip()}\n\n") + tokenizer.encode(question)


def teacher_forced(model, tokenizer, examples, device="cpu", batch=64, length=1024) -> dict[str, float]:
    """Share of the answers that greedy decoding gives to the letter, from one forward pass for each question."""
    import torch

    rows = []
    for email, triples in examples:
        for name, description, answer in triples:
            ids = prompt(tokenizer, email, name, description)
            tail = tokenizer.encode(" " + answer) + tokenizer.encode("\n\n")
            if len(ids) + len(tail) <= length:
                rows.append((ids, tail, answer == tasks.NONE))
    rows.sort(key=lambda row: len(row[0]))
    hits = collections.defaultdict(list)
    for group in (rows[i : i + batch] for i in range(0, len(rows), batch)):
        width = -(-max(len(ids) + len(tail) for ids, tail, _ in group) // 16) * 16  # the kernel's chunks
        padded = [ids + tail + [0] * (width - len(ids) - len(tail)) for ids, tail, _ in group]
        with torch.no_grad():
            hidden = model(torch.tensor(padded, device=device), torch.bfloat16 if device == "cuda" else torch.float32)
            best = model.head(hidden).argmax(-1).cpu()
        for guesses, (ids, tail, absent) in zip(best, group):
            hit = guesses[len(ids) - 1 : len(ids) + len(tail) - 1].tolist() == tail
            for key in ("exact", "none" if absent else "value"):
                hits[key].append(hit)
    return {**{key: sum(hit) / len(hit) for key, hit in hits.items()}, "n": len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mails", type=int, default=60)
    parser.add_argument("--seed", type=int, default=990001)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, examples in generated_sets(args.mails, args.seed).items():
        write_set(args.out / f"generated-{name}.jsonl", name, examples)


if __name__ == "__main__":
    main()
