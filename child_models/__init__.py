"""The networks that candidates are judged in: data sets, models, and the training of one child."""

if __name__ != "actsearch.child_models":
    raise ImportError("this package is actsearch.child_models; import it by that name")
