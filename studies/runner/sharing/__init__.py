"""What the processes that share a study agree on: its storage, its lock, who holds what."""
