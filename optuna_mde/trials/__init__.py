"""What is read from and written to Optuna's trials and studies."""
