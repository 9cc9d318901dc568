"""The estimator: a table of runs becomes a law with intervals (`fit.py`)."""
