"""What was found: trials and outcomes, the store that keeps them, and the tables read from it."""

if __name__ != "actsearch.results":
    raise ImportError("this package is actsearch.results; import it by that name")
