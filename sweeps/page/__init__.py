"""The page that people look at: `document.py` puts it together, the rest fills it."""
