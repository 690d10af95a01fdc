"""What finished weights make of validation sets."""
