"""Which entries of the global model a client trains and sends."""
