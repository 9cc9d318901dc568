"""Training curves: laws of the loss under a learning-rate schedule, and sudden drops of a curve."""
