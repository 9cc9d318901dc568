"""Training curves: laws of the loss under a learning-rate schedule, collapse, sudden drops; rewards along a run."""
