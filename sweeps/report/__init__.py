"""The page that shows what came of a sweep, and its figures (`report.py`)."""
