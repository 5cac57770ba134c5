"""What a device is: its memory, its sensors, what training costs on it, and what it can train."""
