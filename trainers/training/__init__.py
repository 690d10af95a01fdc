"""One run's training: model, order of the data, optimiser, and the loop."""
