"""`starcoder verify`: the engine beside transformers, on weights and hardware of one's own."""
