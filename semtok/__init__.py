"""Items: catalogue, text encoders, alignment, quantisation, semantic IDs and their quality."""
