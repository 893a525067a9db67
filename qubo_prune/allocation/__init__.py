"""How much to prune in each layer: one file a rule, each giving whole numbers with an exact total."""
