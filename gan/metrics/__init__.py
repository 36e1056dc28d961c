"""Metrics: how good a generator is, on plain arrays. A leaf, one kind of figure a file.

Samples, features, probabilities or labels in, numbers out; where samples come from is `evaluation`'s business. Every
function states its formula and its source, and what it needs of the number of samples.
"""
