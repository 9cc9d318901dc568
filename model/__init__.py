"""One training run, from one config, on the devices that it can see."""
