"""Metrics of generated samples, on plain NumPy arrays: one kind of metric per file.

Samples, features, class probabilities or labels in; numbers out. `gan.evaluation` draws the samples. Each function
states its formula, its source and how many samples it needs.
"""
