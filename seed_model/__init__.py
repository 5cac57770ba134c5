"""The operator's uploads to FEDn: compute package, seed model, and session with server functions."""
