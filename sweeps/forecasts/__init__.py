"""Registered forecasts of runs that are yet to be trained: their scores, and calibration over all of them."""
