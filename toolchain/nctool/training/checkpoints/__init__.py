"""Files of a training run: the checkpoint, and the state to resume from."""
