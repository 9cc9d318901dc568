"""A run that an external command trains: its process, its curve, its result. No jax."""
