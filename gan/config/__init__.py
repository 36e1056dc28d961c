"""Configs: loading, overrides, the schema of their fields, and strings that name a function."""
