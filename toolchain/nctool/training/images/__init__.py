"""Images on their way into the network: batches, augmentation, encoding."""
