"""The root of all errors that a user can mend. Imports nothing, so that the NumPy-only parts can raise it too."""


class UserError(ValueError):
    """Something only the user can mend; the message, one line, says what was found, expected and to do."""
