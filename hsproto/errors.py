"""What ends a command with one line that says what is wrong and the way out."""

import re


class UserError(Exception):
    """Bad input. The command line prints its message as one line and exits with status 2."""


class RunFailure(Exception):
    """What ends a run from outside, as lost storage. Printed as one line; status 1."""


# Control characters, line separators, and what stands for the bytes of a name that is not UTF-8.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def visible(text):
    """Text from outside, e.g. a file's name, such that it can be written anywhere as one line."""
    return _INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], str(text))


def one_line(error, length=None):
    """The text of an exception on a single line, its first `length` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in text:  # NumPy advises to load it all the same, which may run what it holds
        text = "it holds Python objects"
    return text[:length]
