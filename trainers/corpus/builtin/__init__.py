"""The text of the Python environment itself, as sources of a corpus."""
