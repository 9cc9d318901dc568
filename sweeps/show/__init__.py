"""Tables for the terminal, the pages and spreadsheets, and how numbers are written in them."""
