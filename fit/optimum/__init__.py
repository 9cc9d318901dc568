"""What a law says is best: sizes and tokens at each budget, the budget for a loss, and the price of other sizes."""
