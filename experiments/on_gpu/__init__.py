"""One command that checks and measures this code on a GPU within minutes: python -m experiments.on_gpu --out=DIR"""
