"""The exceptions that a user can cause."""


class InputError(ValueError):
    """Bad input, said in one line: the field, its value, what is allowed.

    The command line prints the message alone and exits with status 2.
    """


class Stopped(Exception):  # noqa: N818, since it is no error
    """A run that was asked to stop, as by SIGTERM, and has been saved."""
