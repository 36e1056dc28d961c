"""Checks and benchmarks on a GPU, within minutes: python -m experiments.on_gpu --out=DIR"""
