"""The wheel holds what a device runs: the folder runtime/, importable as efficientnet_edge. All else is in pyproject.toml."""

from setuptools import find_packages, setup

NAME = "efficientnet_edge"
setup(package_dir={NAME: "runtime"}, packages=[NAME, *(f"{NAME}.{name}" for name in find_packages("runtime"))])
