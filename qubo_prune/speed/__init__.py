"""How fast pruned layers are on this hardware: sparse products next to dense ones, and their break-even."""
