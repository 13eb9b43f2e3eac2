"""Faults planted one at a time in a room of the code, to see which of them its tests notice: `make mutants`."""
