"""Training of a run, from its config to its record: `train.py` is the whole, all else a part of it."""
