"""The commands `nextscale model ...`: on the trained model of a run."""
