"""Ways to run the network, each with its weights in a form of its own; `choice` says which one runs."""
