"""From the name of a checkpoint to tensors, and what they take."""
