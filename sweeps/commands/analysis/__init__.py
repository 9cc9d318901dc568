"""The commands on a table of runs: laws, forecasts, and what comes after training."""
