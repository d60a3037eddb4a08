"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """What was asked for can't be done; the message says what is wrong, where, and what to do.

    The front door prints it as one line. Any other `ValueError` is a bug and keeps its traceback.
    """
