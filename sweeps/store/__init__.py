"""Runs of an output folder as tables, indexed, verified and garbage-collected; and imports from other tools."""
