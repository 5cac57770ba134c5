"""A fleet of clients on this machine."""
