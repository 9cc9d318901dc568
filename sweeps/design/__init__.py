"""Designs: from a spec to its runs (`expand.py`), and whether they will give a good forecast.

A design is one file here, listed in `expand.DESIGNS`, and its options in `nextscale.sweeps.spec.designs`.
"""
