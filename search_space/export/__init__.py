"""Functions as source code that needs nothing of ours: a file a language, and their table."""
