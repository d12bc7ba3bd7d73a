"""Hardware that is not there: its compilers build a run's programs, and tell what they need."""
