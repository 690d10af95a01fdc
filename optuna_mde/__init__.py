"""Data mixtures for language-model pre-training, searched with Optuna."""
