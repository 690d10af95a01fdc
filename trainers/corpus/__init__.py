"""Text to blocks on disk: sources, documents, tokenizer, packing."""
