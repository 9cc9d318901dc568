"""Conventions of counting parameters: what N counts, and the column that holds it. Imports nothing heavy."""

CONVENTIONS = {
    "total": "params",
    "non_embedding": "params_non_embedding",
    "active": "params_active",
}
"""By what N counts, the column that holds it."""
