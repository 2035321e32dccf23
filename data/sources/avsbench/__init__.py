"""AVSBench: its folders, labels and checks."""
