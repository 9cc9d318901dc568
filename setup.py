"""Which folders are the package `nextscale`; all else is in `pyproject.toml`.

The four folders at the root are packages of the namespace `nextscale` (`fit/` is `nextscale.fit`, and so on), which
`pyproject.toml` cannot say of rooms that are found, only of rooms that are listed, and a list forgets.
"""

from setuptools import find_packages, setup

FLOORS = ("cluster", "fit", "model", "sweeps")

setup(
    packages=[f"nextscale.{room}" for room in find_packages(include=[f"{floor}*" for floor in FLOORS])],
    package_dir={f"nextscale.{floor}": floor for floor in FLOORS},
)
