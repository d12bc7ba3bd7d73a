"""What studies of many runs say: intervals, corrected tests and verdicts on claims."""
