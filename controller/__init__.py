"""Search strategies: what to try next, told the rewards of what was tried."""

if __name__ != "actsearch.controller":
    raise ImportError("this package is actsearch.controller; import it by that name")
