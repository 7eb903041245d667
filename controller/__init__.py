"""Search strategies: what to try next, told the rewards of what was tried."""
