"""The networks that candidates are put into."""
