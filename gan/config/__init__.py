"""Configs: the schema of their fields, and specs such as `wasserstein(0.1)` that name a function."""
