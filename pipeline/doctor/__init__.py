"""`combo doctor`: examine a machine, data sets, stores and runs, and say what to do."""
