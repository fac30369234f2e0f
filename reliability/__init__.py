"""What is promised of crashes, shown: `python -m reliability`, written to results/."""
