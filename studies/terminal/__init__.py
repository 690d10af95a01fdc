"""What a terminal shows: progress while a study runs, and tables of what it found."""
