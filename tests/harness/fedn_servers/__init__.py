"""FEDn servers and clients without FEDn, for tests."""
