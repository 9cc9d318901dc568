"""What a user may write: the spec of a sweep (`sweep_spec.py`), in layers of YAML, with the line of every mistake."""
