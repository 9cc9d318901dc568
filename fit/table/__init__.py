"""Tables of runs: read from files of any tool, columns named, units and conventions settled, bad rows set aside."""

from nextscale.fit.table.columns import Columns
from nextscale.fit.table.reading import read_table
from nextscale.fit.table.runs import Runs, as_runs

__all__ = ["Columns", "Runs", "as_runs", "read_table"]
