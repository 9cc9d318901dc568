"""The `nextscale` command (`app.py`): one thin file per command or family; the work is done in the rooms below."""
