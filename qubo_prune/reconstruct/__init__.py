"""New values for the kept weights, layer by layer."""
