"""Published comparisons re-run, and strategies played on known results."""
