"""What carries a study out: its folder, its workers, its trials, its confirmation."""
