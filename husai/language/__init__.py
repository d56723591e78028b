"""Language models: pretrained encoders, the small matched pair, and their activations."""
