"""HTML pages that stand alone (`document.py`), and the live page of a running sweep (`live.py`)."""
