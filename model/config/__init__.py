"""Configuration of a training run, and the `run_id` that follows from it. No jax."""
