"""A sweep in its output folder: its runs, law, forecast and score (`study.py`), and its summary."""
