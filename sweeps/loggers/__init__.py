"""Runs, shown where people look at them: TensorBoard, Weights & Biases, MLflow.

Workers write files and nothing else (see `nextscale.model.record`). A logger follows those files from the process that
runs the controller, or copies them afterwards: training knows of none, and what a service misses it can still be given.
"""
