"""What setup.cfg cannot say: the recipes in configs/ are installed inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hsproto*"]), "hsproto.recipe_files"],
    package_dir={"hsproto.recipe_files": "configs"},
)
