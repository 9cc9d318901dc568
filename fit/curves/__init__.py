"""Curves of training: laws of the loss under a learning-rate schedule, and what is learnt at once."""
