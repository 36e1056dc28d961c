"""Evaluation of a run: metrics of its samples against real images."""
