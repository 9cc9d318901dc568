"""Tables of runs: read from files of any tool, columns named, units and conventions settled, bad rows set aside."""

from nextscale.fit.table.runs import Columns, Runs, as_runs, read_table

__all__ = ["Columns", "Runs", "as_runs", "read_table"]
