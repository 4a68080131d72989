"""Fields out of mail, by an RWKV model: mailboxes, schemas, results, search, and a dashboard of the speeds."""

from .errors import AgentError, MailError
from .mail import Mail, read_mail
from .mailbox import Mailbox, open_mailbox
from .models import EMBEDDED
from .pipeline import Outcome, extract_mails
from .results import Results, open_results
from .schema import Schema, load_schema, schema_of
from .search import Hit, Index

__version__ = "0.1.0"

__all__ = [
    "EMBEDDED",
    "AgentError",
    "Hit",
    "Index",
    "Mail",
    "MailError",
    "Mailbox",
    "Outcome",
    "Results",
    "Schema",
    "extract_mails",
    "load_schema",
    "open_mailbox",
    "open_results",
    "read_mail",
    "schema_of",
]
