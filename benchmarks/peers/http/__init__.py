"""Other engines' own API servers beside ours, asked over HTTP by the same clients."""
