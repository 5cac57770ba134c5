"""Made-up runs and results, for tests of reports."""
