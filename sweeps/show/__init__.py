"""Tables as people read them: in the terminal, on the page and in a spreadsheet."""
