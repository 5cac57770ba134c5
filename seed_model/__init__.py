"""What the operator sends to FEDn: the compute package, the seed model, a session with its server functions."""
