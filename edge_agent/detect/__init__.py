"""Detection: a model's manifest, preprocessing, a backend, the decoder of the model's family, non-maximum suppression."""
