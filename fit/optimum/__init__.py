"""What a law says is best: sizes and tokens at each budget, the budget of a loss, sizes beside the optimum."""
