"""Trained generators: `load`, samples, and what else is done with them in Python."""
