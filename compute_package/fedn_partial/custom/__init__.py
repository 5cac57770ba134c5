"""Custom modules: models, selectors, step terms, codecs, merge rules and data sets from the user's folder."""
