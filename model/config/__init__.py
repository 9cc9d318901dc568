"""What one training run is: everything that can change its numbers, and the name that follows from it. No jax."""
