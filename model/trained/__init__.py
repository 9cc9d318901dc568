"""What becomes of a trained model: read back, sampled from, scored on tasks, and exported for other libraries."""
