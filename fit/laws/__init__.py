"""Scaling laws: what a law is, the laws that ship (`catalogue.py`), and the loss functions that they are fitted with.

A law of your own is a sum of power terms (`SumOfPowers.of`) or any function of its variables (`Formula.of`).
"""
