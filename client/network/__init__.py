"""A FEDn network on this machine."""
