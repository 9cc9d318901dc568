"""Accelerators and pools; which runs fit there, for how long and at what price. Plain arithmetic: no jax, no ray."""
