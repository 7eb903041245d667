"""What reads a finished or running run: reports, figures, comparisons, exports, descriptions."""
