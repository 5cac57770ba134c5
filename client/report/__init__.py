"""A run's figures as one page that needs neither network nor explanation, and as CSV files beside it."""
