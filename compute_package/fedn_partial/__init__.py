"""Federated training of a few layers per round over FEDn: the library that runs on devices.

Importing it does not import TensorFlow; functions that need it import it locally.
"""

__version__ = "0.1.0"
