"""Trained generators: restored from a run, and sampled."""
