"""The commands of `optuna-mde`, one function each."""
