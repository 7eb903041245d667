"""The grammar: operators, expressions, the spaces that count them, and the module that runs one."""

if __name__ != "actsearch.search_space":
    raise ImportError("this package is actsearch.search_space; import it by that name")
