"""Sampling parameters. Every shared `parameter.Parameter` of this package is a field of all bodies that sample."""
