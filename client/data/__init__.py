"""Read, download and partition data sets."""
