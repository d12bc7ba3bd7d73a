"""The one exception for what a user can mend: a line that says what is wrong and the way out."""


class UserError(Exception):
    """Bad input. The command line prints its message as one line and exits with status 2."""
