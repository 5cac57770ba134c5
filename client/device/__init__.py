"""One FEDn client on this machine."""
