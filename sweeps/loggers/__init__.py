"""Loggers: TensorBoard, Weights & Biases and MLflow show the curves and results of runs.

A logger is one file here, listed in `sweep_export.LOGGERS`, and its options in `nextscale.sweeps.spec.loggers`.

Workers write files and nothing else (see `nextscale.model.record`). A logger follows those files from the process that
runs the controller, or copies them afterwards: training knows of none, and what a service misses it can still be given.
"""
