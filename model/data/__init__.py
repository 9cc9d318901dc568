"""Where tokens come from. A batch is a pure function of the data, the seed and the position (`sources.py`)."""
