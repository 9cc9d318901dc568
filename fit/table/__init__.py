"""Tables of runs: read from files of any tool, columns named, units and conventions settled, bad rows set aside."""
