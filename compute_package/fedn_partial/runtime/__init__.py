"""Execution of FEDn's requests on a device, and the client's state between rounds."""
