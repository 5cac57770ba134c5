"""Federated training of a few layers per round over FEDn.

The library that runs on a device. Importing this package does not import TensorFlow;
modules that need it import it where it is used.
"""

__version__ = "0.1.0"
