"""Run the network of this folder in an unmodified Lava, without the tool that made it.

python run.py                        compare Lava with the known answers; exit 1 where a logit differs
python run.py X.npy [LOGITS.npy]     answer for uint8 pixels (samples, channels, height, width)
"""

import json
import sys
from pathlib import Path

import numpy as np
from encoding import encode
from network import logits

HERE = Path(__file__).parent


def main(arguments):
    """Compare the known answers, or answer for a file of pixels; return the exit code."""
    if not arguments:
        with np.load(HERE / "known_answers.npz") as known:
            pixels, expected = known["pixels"], known["logits"]
        equal = (logits(encode(pixels)) == expected).all(axis=1)
        print(f"{equal.sum()} of {len(equal)} known answers are equal, logit by logit")
        return int(not equal.all())
    labels = json.loads((HERE / "network.json").read_text(encoding="utf-8"))["labels"]
    found = logits(encode(np.load(arguments[0])))
    for number, answer in enumerate(found.argmax(axis=1)):
        print(number, labels[answer])
    if len(arguments) > 1:
        np.save(arguments[1], found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
