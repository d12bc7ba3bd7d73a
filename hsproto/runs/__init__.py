"""The files of a workdir: each is written and read in one module here."""
