"""One training run, from its config to its record (`train.py`), and all that happens on the way."""
