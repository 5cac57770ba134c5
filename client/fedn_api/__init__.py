"""FEDn's REST interface and its compute packages."""
