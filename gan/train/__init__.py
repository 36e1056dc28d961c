"""Training: the loop of a run, populations, diagnostics, and the choice of microbatches."""
