"""The results page docs/results.md, made of a record for each trained run: python -m experiments.results"""
