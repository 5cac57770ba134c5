"""Checks of a device and of the FEDn server that it joins."""
