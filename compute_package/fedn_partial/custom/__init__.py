"""Custom modules: models, selectors, codecs, merge rules and data sets from the user's folder."""
