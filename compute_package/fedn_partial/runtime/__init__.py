"""What runs a request of FEDn on a device, and what a client keeps from round to round."""
