"""Formats of tables of runs: separated text, JSON, logs of training, charts, spreadsheets; each becomes a DataFrame."""
