"""Reference spots, and the search for the nearest of them."""
