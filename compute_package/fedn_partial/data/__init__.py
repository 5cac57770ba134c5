"""A device's data: shards and vocabularies."""
