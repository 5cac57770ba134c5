"""Custom modules: models, selectors, codecs, merge rules and data sets from a folder of the user's own."""
