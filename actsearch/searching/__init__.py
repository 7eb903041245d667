"""What trains: searches, re-evaluations, the loop they share, and what is shown meanwhile."""
