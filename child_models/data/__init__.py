"""What children are trained on: labelled arrays, folders of images, pairs of sentences."""
