"""What was found: trials and outcomes, the store that keeps them, and the tables read from it."""
