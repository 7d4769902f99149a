"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input, told in one line.

    The line names the file or key, what was found and what is allowed. The CLI prints it and exits with status 2.
    """
