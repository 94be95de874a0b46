"""What the scores of a classifier are worth: numbers, calibration, trust, pictures."""
