"""Between compute, loss, size, tokens, hours and dollars: a forecast in every direction (`targets.py`)."""
