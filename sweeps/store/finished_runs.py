"""The finished runs of an output folder, as a table that a law may be fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.store.store import load

if TYPE_CHECKING:
    import pandas as pd


def load_finished(folder: Path) -> pd.DataFrame:
    """All runs of a folder, one row each (see `store.load`).

    Raises:
        SpecError: none of them has a loss yet.
    """
    table = load(folder)
    if "loss" not in table or table["loss"].isna().all():
        raise SpecError(f"{folder}: none of its runs has come to a loss")
    return table


def check_one_data_source(table: pd.DataFrame, folder: Path) -> None:
    """
    Raises:
        SpecError: the runs were trained on different data, and one law does not hold for them all.
    """
    sources = sorted(table.loc[table["loss"].notna(), "data"].unique())
    if len(sources) > 1:
        imported = (table["status"] == "imported").any()
        hint = ", or say of imported runs that it is the same: nextscale import --data" if imported else ""
        raise SpecError(
            f"{folder}: its runs were trained on {len(sources)} different data ({'; '.join(sources)}), and one law "
            f"does not hold for them all; choose, such as --where 'data == \"{sources[0]}\"'{hint}"
        )
