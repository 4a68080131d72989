"""What can go wrong in a way that the user can mend: one clear line each."""

from __future__ import annotations


class AgentError(Exception):
    """Bad input; the text names the file, the thing, what was expected and what was found."""


class MailError(AgentError):
    """A mail that cannot be read."""
