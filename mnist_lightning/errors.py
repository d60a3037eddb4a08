"""The error that a user can fix."""


class UserError(ValueError):
    """A request can't be met; the message says what is wrong, where, and what to do.

    The front door prints it as one line. Any other `ValueError` is a bug and keeps its traceback.
    """
