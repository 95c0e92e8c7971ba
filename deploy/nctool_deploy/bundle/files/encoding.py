"""Turn pixels into the integers that the network takes, in NumPy alone; `encoding.npz` holds the numbers."""

from pathlib import Path

import numpy as np

with np.load(Path(__file__).with_name("encoding.npz")) as numbers:
    TABLE, THRESHOLD, STEPS = numbers["table"], int(numbers["threshold"]), int(numbers["steps"])
    SHAPE = tuple(numbers["shape"].tolist())


def encode(pixels):
    """Return what enters at each step, int32 (samples, steps, channels, ...).

    Row c of the table says what pixels 0..255 give channel c of the signal. Without a threshold, that enters. With
    one, it drives an integrate-and-fire neuron that starts at half of it, and what enters is its spikes.

    pixels: uint8 (samples, channels, height, width), as in training, before any normalisation.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != SHAPE:
        raise SystemExit(f"got {pixels.dtype} {pixels.shape}, allowed: uint8 (samples, {', '.join(map(str, SHAPE))})")
    copies = np.repeat(pixels, len(TABLE) // SHAPE[0], axis=1)
    channel = np.arange(len(TABLE)).reshape(-1, *[1] * (copies.ndim - 2))
    drive = TABLE[channel, copies].astype(np.int32)
    signal = np.empty((len(drive), STEPS, *drive.shape[1:]), np.int32)
    potential = np.full(drive.shape, THRESHOLD // 2, np.int32)
    for step in range(STEPS):
        potential += drive
        signal[:, step] = potential >= THRESHOLD if THRESHOLD else drive
        potential -= THRESHOLD * signal[:, step]
    return signal
