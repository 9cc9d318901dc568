"""What N counts. No pandas: a plan knows of it too."""

CONVENTIONS = {
    "total": "params",
    "non_embedding": "params_non_embedding",
    "active": "params_active",
}
"""What N counts, and the column that holds it."""
