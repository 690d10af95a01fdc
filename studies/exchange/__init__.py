"""What studies give to other programs and take from them: tables of runs, other studies, training
configurations."""
