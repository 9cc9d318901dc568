"""Specs of sweeps: what a user may write in YAML (`sweep_spec.py`), in layers, with the line of every mistake."""
