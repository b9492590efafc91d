"""One iteration after the other: step, state, sampling, averaging, and what a run leaves for people."""
