"""Study definitions and what runs them."""
