"""What a study answers: predictions, intervals, rows of a recommendation, trust."""
