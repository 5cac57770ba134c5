"""Charts of reports and experiments, drawn with matplotlib and saved as SVG."""
