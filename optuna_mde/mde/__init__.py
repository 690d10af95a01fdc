"""Mixture of Data Experts: the experts' files, their table, its coreset and its optimum."""
