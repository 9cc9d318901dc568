"""Running a sweep to its end (`loop.py`): on which cluster, under whose lease, attended or left alone."""
