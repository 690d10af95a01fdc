"""How a recording is made: its text, its design, its runs, and the packing of the result."""
