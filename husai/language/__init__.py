"""Language models: pretrained ones and small ones of our own, their activations on text, the site that is shared."""
