"""The one exception that a user can cause."""


class InputError(ValueError):
    """Bad input, said in one line: the field, its value, what is allowed.

    The command line prints the message alone and exits with status 2.
    """
