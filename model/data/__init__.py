"""Sources of tokens. A batch is a pure function of the data, the seed and the position (see `sources.py`)."""
