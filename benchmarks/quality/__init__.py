"""What completions are worth: held-out code with gaps, and what is made of them."""
