"""Buckets of object storage, and what is kept of them on this machine."""
