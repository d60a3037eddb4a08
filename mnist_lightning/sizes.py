"""What all parts agree on: how large an image is, and which classes there are."""

SIDE = 28  # pixels, of an image's height and width
CLASSES = tuple("0123456789")  # the names of what is told apart
NUM_CLASSES = len(CLASSES)
