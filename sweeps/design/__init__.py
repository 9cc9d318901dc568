"""From a spec to the runs that answer it (`expand.py`), and whether the design is any good."""
