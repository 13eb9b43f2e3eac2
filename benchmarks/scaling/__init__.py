"""How many engines there are, and what people wait: the scaling policy in simulated time."""
