"""From sections to the arrays that models learn from."""
