"""Errors that a user can mend. Imports nothing heavy, so that the NumPy-only parts and the command line can use it too."""

import difflib
from collections.abc import Iterable

from srpo.text import NAME, plain


class UserError(ValueError):
    """Something only the user can mend; the message, one line, says what was found, expected and to do.

    It may quote names from files: it is made plain (`srpo.text`) here, once and for all.
    """

    def __init__(self, message: object):
        super().__init__(plain(message))


class ConfigError(UserError):
    """A setting, name or argument that cannot be used."""


class DataError(UserError):
    """Data that cannot be used; the message says what was found, what was expected and what to do."""


def closest(name: str, known: Iterable[str], kind: str) -> str:
    """The end of an error message about an unknown name: the closest known one, and what there is."""
    known, name = list(known), plain(name, NAME)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"
