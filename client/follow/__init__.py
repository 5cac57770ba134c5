"""Following a session through FEDn's REST interface."""
