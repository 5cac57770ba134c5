"""Run a FEDn network on this machine."""
