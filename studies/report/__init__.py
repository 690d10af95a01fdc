"""What a study found, for a browser: the page and the dashboard."""
