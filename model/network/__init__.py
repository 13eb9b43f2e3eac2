"""The network in PyTorch, sharded over ranks."""
