"""Post-training conversion: neurons that stand for the ReLUs of a trained network, chosen on calibration images."""
