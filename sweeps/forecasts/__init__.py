"""Forecasts of runs without a name yet, written to the ledger before and scored after; and how all came out."""
