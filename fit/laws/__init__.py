"""Scaling laws: what a law is, the laws that ship (`catalogue.py`), and the loss functions that they are fitted with.

A law of your own is a sum of power terms (`SumOfPowers.of`) or any function of its variables (`Formula.of`).
"""

from nextscale.fit.laws.catalogue import LAWS, law_named
from nextscale.fit.laws.formula import Formula
from nextscale.fit.laws.law import Law, Shape
from nextscale.fit.laws.loss import Loss
from nextscale.fit.laws.sum_of_powers import SumOfPowers, Term

__all__ = ["LAWS", "Formula", "Law", "Loss", "Shape", "SumOfPowers", "Term", "law_named"]
