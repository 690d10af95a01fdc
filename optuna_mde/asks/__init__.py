"""One ask: what the start-up targets, what the model proposes, and the fall-backs."""
