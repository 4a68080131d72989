"""Accuracy of `web-rwkv extract` on a set of mails with known fields.

  evaluate.py SET.jsonl [--binary target/release/web-rwkv] [--limit N] [--show] [-- ARGUMENTS OF web-rwkv extract]

A line of the set: {"id", "email", "schema": {name: description}, "gold": {name: value or "none"}}.
"""
import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

NONE = "none"


def fold(text):
    return re.sub(r"\s+", " ", text).strip()


def normal(text):
    return fold(text).strip(".,;:!").casefold()


def token_f1(gold, answer):
    a, b = (collections.Counter(re.findall(r"\w+", normal(x))) for x in (gold, answer))
    same = sum((a & b).values())
    return 2 * same / (sum(a.values()) + sum(b.values())) if same else float(normal(gold) == normal(answer))


def auc(right, wrong):
    """Chance that a right answer has more confidence than a wrong one; ties count half."""
    pairs = len(right) * len(wrong)
    return sum((r > w) + (r == w) / 2 for r in right for w in wrong) / pairs if pairs else None


def extract(binary, extra, row, folder):
    """Field name to {"value", "confidence", ...}."""
    mail, schema = folder / "mail.txt", folder / "schema.json"
    mail.write_bytes(row["email"].encode())
    schema.write_text(json.dumps(row["schema"], ensure_ascii=False), encoding="utf-8")
    command = [binary, "extract", "--json", "--text", "--schema", str(schema), *extra, str(mail)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    fields = json.loads(done.stdout)["fields"]
    return fields if isinstance(fields, dict) else {f["name"]: f for f in fields}


def main():
    arguments, extra = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set")
    parser.add_argument("--binary", default="target/release/web-rwkv")
    parser.add_argument("--limit", type=int, help="only the first mails")
    parser.add_argument("--show", action="store_true", help="print every wrong field")
    args = parser.parse_args(arguments)
    with open(args.set, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f if line.strip()][:args.limit]
    score, confidence, failed = collections.defaultdict(list), {True: [], False: []}, 0
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            try:
                fields = extract(args.binary, extra, row, pathlib.Path(folder))
            except (RuntimeError, ValueError, KeyError) as e:
                failed += 1
                fields = {}
                print(f"{row['id']}: {e!r}", file=sys.stderr)
            for name in row["schema"]:
                gold, field = row["gold"][name], fields.get(name)
                value = field["value"] if field else None
                # A field without any answer is wrong, also where the mail has no value for it.
                answer = (NONE if value is None else value) if field else ""
                hit = normal(answer) == normal(gold)
                score["exact"].append(hit)
                score["exact, " + ("absent" if gold == NONE else "present")].append(hit)
                score["F1"].append(token_f1(gold, answer))
                if field:
                    confidence[hit].append(field["confidence"])
                if value is not None:
                    score["quoted in the mail"].append(fold(value) in fold(row["email"]))
                if args.show and not hit:
                    print(f"  {row['id']} {name}: gold {gold!r} got {answer!r}")
    print(f"{len(rows)} mails, {len(score['exact'])} fields, {failed} mails failed")
    for key in ("exact", "exact, present", "exact, absent", "F1", "quoted in the mail"):
        values = score[key]
        print(f"{key:20}", f"{sum(values) / len(values):.4f} of {len(values)}" if values else "-")
    area = auc(confidence[True], confidence[False])
    print(f"{'AUC of confidence':20}", "-" if area is None else f"{area:.4f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
