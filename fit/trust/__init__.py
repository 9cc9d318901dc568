"""How far a law can be trusted: backtests, the choice among laws, trends, comparisons, and the run to do next."""
