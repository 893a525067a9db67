"""D-Wave's quantum and hybrid solvers in the cloud, and what they share: access and embeddings."""
