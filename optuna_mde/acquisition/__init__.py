"""Acquisition functions over the surrogate's goals, and their maximisation on a region."""
