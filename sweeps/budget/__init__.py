"""Compute, loss, size, tokens, hours and dollars: a forecast of each from any other (`targets.py`)."""
