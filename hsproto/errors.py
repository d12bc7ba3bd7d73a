"""What ends a command with one line that says what is wrong and the way out."""


class UserError(Exception):
    """Bad input. The command line prints its message as one line and exits with status 2."""


class RunFailure(Exception):
    """What ends a run from outside, as lost storage. Printed as one line; status 1."""


def one_line(error, length=None):
    """The text of an exception on a single line, its first `length` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in text:  # NumPy advises to load it all the same, which may run what it holds
        text = "it holds Python objects"
    return text[:length]
