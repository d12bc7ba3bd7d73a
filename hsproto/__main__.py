"""`python -m hsproto COMMAND ...`, the same as `hsproto COMMAND ...`."""

from hsproto import cli

cli.main()
