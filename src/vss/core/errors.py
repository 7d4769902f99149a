"""The one exception that means: the user can fix this."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the user's input, described in one line.

    The line names the file or key, what was found and what is allowed. The CLI prints it and exits with status 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the end of a message that proposes the nearest known name, empty where none is near."""
    import difflib  # only an error needs it, and every job imports this module

    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
