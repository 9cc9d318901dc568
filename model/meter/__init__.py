"""What a run tells of its own speed: beside its curve, and in traces of the profiler."""
