"""The device: monitoring, memory, sensors, costs of training, and selection within its limits."""
