"""Networks at work: a classifier, an embedder, feature maps, and the pipeline that overlaps decoding with them."""
