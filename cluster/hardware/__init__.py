"""Accelerators and pools, what fits them, how long it takes there and what it costs. Arithmetic: no jax, no Ray."""
