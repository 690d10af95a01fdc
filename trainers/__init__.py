"""Lightning trainers: one run, from its spec to its folder."""
