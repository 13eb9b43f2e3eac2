"""A company's own repository as a benchmark: gaps in its files, and how well a model foresees their text."""
