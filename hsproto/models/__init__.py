"""Networks from images to features, and their classifiers."""
