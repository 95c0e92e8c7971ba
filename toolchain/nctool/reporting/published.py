"""What was published for the experiments that a recipe repeats, to be drawn beside what was measured.

Source: Huang et al., arXiv 2404.17456: a single run, its epoch chosen on the test set, float weights. The same numbers
stand in docs/RESULTS.md.
"""

SOURCE = "Huang et al., arXiv 2404.17456: one run, the epoch chosen on the test set, float weights"

PUBLISHED: dict[str, dict[int, float]] = {
    "cifar10-vgg16": {1: 0.8846, 2: 0.9193, 4: 0.9480, 8: 0.9548, 16: 0.9570},
    "cifar10-resnet18": {1: 0.8964, 2: 0.9372, 4: 0.9537, 8: 0.9621, 16: 0.9638},
    "cifar10-resnet20": {1: 0.6599, 2: 0.7730, 4: 0.8454, 8: 0.8743, 16: 0.8826},
    "cifar100-vgg16": {1: 0.6227, 2: 0.6939, 4: 0.7457, 8: 0.7673, 16: 0.7768},
    "cifar100-resnet18": {1: 0.6235, 2: 0.7086, 4: 0.7681, 8: 0.7885, 16: 0.7944},
    "cifar100-resnet20": {1: 0.2178, 2: 0.3387, 4: 0.5028, 8: 0.6093, 16: 0.6473},
}
"""Accuracy of the float SNN by recipe and time steps, 0..1."""
