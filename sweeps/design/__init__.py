"""Designs: from a spec to its runs (`expand.py`), and whether they will give a good forecast.

A design is one file here with an `EXPANSION`, and its options in `nextscale.sweeps.spec.designs`, which name that file.
"""
