"""Settings of a case, of a round and of a device, read and checked by one schema."""
