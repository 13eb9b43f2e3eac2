"""Sampling parameters. Every `parameter.Parameter` in a module of this package is a field of every dialect's bodies."""
