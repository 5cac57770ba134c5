"""Data sets: readers, downloads, and their partition into shards."""
