"""Generative adversarial networks in JAX and Flax: pure steps, named parts, exact runs."""

__version__ = "0.1.0"
