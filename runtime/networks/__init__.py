"""Exported networks (classifier, embedder, feature maps), and the pipeline that overlaps decoding with them."""
