"""Loggers: TensorBoard, Weights & Biases and MLflow show the curves and results of runs.

A logger is one file here, named by its kind, with a class `LOGGER` that is made of its options and the output folder,
and has as `client` the package that it needs, or None. Its options are in `nextscale.sweeps.spec.loggers`.

Workers write files and nothing else (see `nextscale.model.record`). A logger follows those files from the process that
runs the controller, or copies them afterwards: training knows of none, and what a service misses it can still be given.
"""
