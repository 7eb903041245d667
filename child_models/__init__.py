"""The networks that candidates are judged in: data sets, models, and the training of one child."""
