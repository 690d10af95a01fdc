"""End-task sets: prompts and targets, from rows of a dataset to tokens on disk."""
