"""All sweeps below a folder on one page (`board.py`), as files (`site.py`) or from a server (`server.py`)."""
