"""What is observed: images, and the ranges of every tensor over them."""
